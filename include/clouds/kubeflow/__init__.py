"""Kubeflow from Airflow: runs of its pipelines, and the train jobs of its trainer."""
