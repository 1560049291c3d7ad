"""The DuckDB file that all stages meet in. Only this package imports duckdb; all SQL lives here."""
