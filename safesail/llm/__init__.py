"""Language models as tools: one chat seam, one cache, one ledger, one budget. Only this package imports openai."""
