"""Training as plain functions on frames and arrays; nothing here knows Airflow."""
