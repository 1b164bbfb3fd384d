"""`mlproducer quickstart`: broker, service and worker from nothing, real tasks through all of them, and a table."""

from mlproducer.cli.quickstart.command import quickstart

__all__ = ["quickstart"]
