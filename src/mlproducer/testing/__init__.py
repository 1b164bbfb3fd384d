"""For users' tests and ours: a fake broker, a manual clock, the spool's contract, a private RabbitMQ."""
