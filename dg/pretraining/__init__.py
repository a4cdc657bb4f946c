"""Training of networks that have no public checkpoint, and the training engine."""
