"""Measurements, side by side in one process."""
