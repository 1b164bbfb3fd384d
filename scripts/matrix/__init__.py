"""What works with what: the tests on each RabbitMQ, Python and set of versions, by one command (`make matrix`)."""
