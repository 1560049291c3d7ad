"""Drives the stages: executes pipelines/*.yaml, and explains and scores under one budget."""
