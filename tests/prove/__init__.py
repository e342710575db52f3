"""The long proofs: what must hold of every pipeline, shown on copies in a whole Airflow."""
