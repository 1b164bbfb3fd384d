"""What a broker tells of its queues: what is ready, and who reads it."""

from __future__ import annotations

import asyncio

import aio_pika

from engine_bench import embed
from making_queues import make_queue
from mlproducer import Producer, Settings
from mlproducer.ports import QueueDepth


async def test_a_queue_that_nobody_reads_is_told_from_one_that_a_worker_empties(vhost_url: str) -> None:
    make_queue(vhost_url, "ml.embed")
    settings = Settings.load(rabbitmq_url=vhost_url, ml_spool_url="memory://")
    async with Producer(settings) as p:
        assert await p.connected(30)
        for n in range(3):
            await p.publish(embed(n))
        broker = p._parts.pipeline._broker
        assert (await broker.queue_depths())["ml.embed"] == QueueDepth(ready=3, consumers=0)
        async with await aio_pika.connect(vhost_url) as connection:
            channel = await connection.channel()
            taken: asyncio.Queue[object] = asyncio.Queue()
            await (await channel.get_queue("ml.embed")).consume(taken.put)
            for _ in range(3):
                await asyncio.wait_for(taken.get(), 30)
            assert (await broker.queue_depths())["ml.embed"] == QueueDepth(ready=0, consumers=1)
