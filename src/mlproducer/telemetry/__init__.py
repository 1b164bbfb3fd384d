"""Metrics and logs: listeners of events, nothing else."""
