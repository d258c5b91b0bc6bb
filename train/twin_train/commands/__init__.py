"""Command-line entry points of training."""
