"""What the catalogue promises, proved."""
