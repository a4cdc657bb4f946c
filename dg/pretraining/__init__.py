"""Training of what has no public checkpoint, and the training engine."""
