"""Mutation testing: `make mutants` plants small faults, and the tests must notice them."""
