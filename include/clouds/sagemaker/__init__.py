"""SageMaker for pipelines: requests, operators that find again what they began, cleaning up."""
