"""Seeded synthetic data; each module says what truth is planted in it."""
