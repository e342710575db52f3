"""Feature definitions: one for training and serving alike."""
