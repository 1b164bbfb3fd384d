"""From the commit of a user's transaction to a consumer of the queue, by way of the outbox on PostgreSQL.

    .venv/bin/python bench/outbox.py postgresql://user:password@host/database [--tasks 1000] [--pause 0.02] [--json]

A private RabbitMQ, a producer on the same database, and a consumer of the queue, all in this process: what is measured
has their shares of the event loop in it. Each transaction is one row of a table of ours and one task, over psycopg.
`ML_DRAIN_POLL` is 60 s, so what arrives did so by NOTIFY. The tables of the database stay; name one made for this.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

import aio_pika
import psycopg

from mlproducer import Outbox, Producer, Settings, Task
from mlproducer.testing.rabbitmq import PrivateRabbit

BODY = "x" * 960
WITHIN = 0.1
"""Seconds: what is promised."""


def figures(name: str, seconds: list[float]) -> dict[str, object]:
    cuts = statistics.quantiles(seconds, n=100)
    return {
        "what": name,
        "p50_ms": round(cuts[49] * 1e3, 2),
        "p90_ms": round(cuts[89] * 1e3, 2),
        "p99_ms": round(cuts[98] * 1e3, 2),
        "worst_ms": round(max(seconds) * 1e3, 2),
    }


async def measure(url: str, broker: str, tasks: int, pause: float) -> list[dict[str, object]]:
    settings = Settings.load(ml_spool_url=url, rabbitmq_url=broker, ml_drain_poll=60.0)
    outbox = Outbox(settings)
    committed: dict[str, float] = {}
    arrived: dict[str, float] = {}
    adding: list[float] = []
    committing: list[float] = []

    async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        arrived.setdefault(message.correlation_id or "", time.perf_counter())
        await message.ack()

    async with Producer(settings) as producer, await aio_pika.connect(broker) as connection:
        if not await producer.connected(20):
            raise SystemExit("the private broker did not answer")
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=100)
        await (await channel.get_queue("ml.embed")).consume(take)
        async with await psycopg.AsyncConnection.connect(url) as database:
            await database.execute("CREATE TABLE IF NOT EXISTS bench_orders (id TEXT)")
            await database.commit()
            for n in range(tasks):
                task = Task(task_type="embed_vectors", payload={"share_id": str(n), "content": BODY})
                await database.execute("INSERT INTO bench_orders VALUES (%s)", (task.id,))
                start = time.perf_counter()
                await outbox.add(database, task)
                adding.append(time.perf_counter() - start)
                start = time.perf_counter()
                await database.commit()
                committed[task.id] = time.perf_counter()
                committing.append(committed[task.id] - start)
                await asyncio.sleep(pause)
        async with asyncio.timeout(30):
            while len(arrived) < tasks:  # noqa: ASYNC110  # the end of a bench
                await asyncio.sleep(0.05)
    waits = [arrived[task_id] - at for task_id, at in committed.items()]
    found = figures("commit to consumer", waits)
    found["within_100_ms"] = f"{sum(each <= WITHIN for each in waits) / len(waits):.2%}"
    return [found, figures("outbox.add", adding), figures("commit", committing)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--tasks", type=int, default=1_000)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between two transactions")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, PrivateRabbit(Path(folder)) as node:
        found = asyncio.run(measure(given.url, node.add_vhost("outbox"), given.tasks, given.pause))
    if given.json:
        print(json.dumps(found))
        return
    for each in found:
        print("  ".join(f"{name} {value}" for name, value in each.items()))


if __name__ == "__main__":
    main()
