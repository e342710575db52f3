"""Pipelines run while their processes are killed at random, and end as they do undisturbed."""
