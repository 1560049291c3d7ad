"""Which SAE is worth explaining: contrastive concept pairs through a subject model, without any LLM call."""
