"""The AMQP 0-9-1 shell: an `asyncio.Protocol` over pamqp frames, made for publishing with tracked confirms.

From the bottom: `wire` (bytes and frames), `channel` and `publishing` (one channel each), `connection` (handshake,
channels), `topology`, `alone`, and `broker`, which is `ports.Broker`.
"""
