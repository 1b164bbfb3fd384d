"""The durable retry queue and the dead letter queue, behind `ports.Spool`."""

from mlproducer.spool.factory import open_spool

__all__ = ["open_spool"]
