"""Features, metrics from features, figures and reports."""
