"""The AMQP 0-9-1 shell: an `asyncio.Protocol` over pamqp frames, made for publishing with tracked confirms."""
