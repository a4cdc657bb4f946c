"""Option declarations of the scripts."""
