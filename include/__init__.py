"""What the pipelines share: data, features, training, evaluation, tracking, storage."""
