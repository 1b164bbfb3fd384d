"""The durable retry queue and the dead letter queue, behind `ports.Spool`."""
