"""Measures and plots as plain functions; nothing here knows Airflow."""
