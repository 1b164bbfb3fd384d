"""Each byte late: what is one round trip too many is a second too many."""

from __future__ import annotations

import asyncio

import pytest

from making_queues import make_queue
from mlproducer.events import TopologyDiffers
from mlproducer.testing.rabbitmq import PrivateRabbit
from real_link import outcome, real
from slow_network import late_by

MANY = ("ml.embed", *(f"ml.queue{n}" for n in range(12)))


@pytest.mark.chaos
async def test_many_queues_on_a_slow_network_are_seen_within_one_connect(rabbit: PrivateRabbit, vhost_url: str) -> None:
    """One after the other, 13 queues took 80 round trips of 120 ms, and a connect may take 10 s."""
    await asyncio.to_thread(make_queue, vhost_url, *MANY)
    async with late_by(0.06, rabbit.port) as port, real(vhost_url, *MANY, port=port) as link:
        for _ in ("not known yet", "known"):
            await link.broker.connect()
            assert await outcome(link)
            await link.broker.close()
        assert not [event for event in link.events if isinstance(event, TopologyDiffers)]
