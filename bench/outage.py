"""What an outage costs: accepting into the spool while the broker is away, and draining once it is back.

    .venv/bin/python bench/outage.py [--tasks 40000] [--rounds 3] [--spool URL] [--json]
    .venv/bin/python bench/outage.py --curve 40000 1000000

A private RabbitMQ, 1 KiB of text a task, a durable quorum queue. Each round, on a spool of its own:

- `accept`: 1,000 concurrent `publish` calls with no broker at the address, each from a `Task` to a committed row;
- `drain`: a producer with the broker takes over; from its first confirm until the spool is empty;
- `direct`: 1,000 concurrent `publish` calls, confirmed by the broker.

`--curve` fills a spool of its own with so many tasks each time, and drains it for half a minute.

`--spool` names a PostgreSQL or Redis to use instead of a SQLite file per round; it must be empty.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mlproducer import Producer, Receipt, Settings, Task
from mlproducer.testing.rabbitmq import PrivateRabbit

CALLERS = 1_000
NOWHERE = "amqp://ml:ml_password@127.0.0.1:9/"
TEXT = ("The quick brown fox jumps over the lazy dog. " * 30)[:960]


async def call_many(producer: Producer, count: int, good: Callable[[Receipt], bool]) -> float:
    numbers = iter(range(count))

    async def caller() -> None:
        for n in numbers:
            task = Task(task_type="embed_vectors", payload={"share_id": str(n), "content": TEXT})
            receipt = await producer.publish(task)
            if not good(receipt):
                raise SystemExit(f"{receipt.state}: {receipt.reason}")

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return count / (time.perf_counter() - started)


async def accept(settings: Settings, count: int) -> float:
    away = settings.model_copy(update={"rabbitmq_url": Settings(rabbitmq_url=NOWHERE).rabbitmq_url})
    async with Producer(away) as producer:
        await producer.connected(5)
        return await call_many(producer, count, lambda receipt: not receipt.confirmed)


async def drain(settings: Settings, count: int) -> float:
    async with Producer(settings) as producer:
        started = time.perf_counter()
        if not await producer.connected(20):
            raise SystemExit(f"no broker: {producer.status().last_error}")
        while await producer.waiting(limit=1):  # noqa: ASYNC110  # the spool has no event for it
            await asyncio.sleep(0.02)
        return count / (time.perf_counter() - started)


async def drain_for(settings: Settings, seconds: float, *, warm: float = 3.0) -> tuple[int, float]:
    """How many tasks waited when it began to count, and at which rate they left; up to `seconds`, or all but 2,000."""
    async with Producer(settings) as producer:
        if not await producer.connected(20):
            raise SystemExit(f"no broker: {producer.status().last_error}")
        await asyncio.sleep(warm)
        samples = [(time.perf_counter(), producer.status().spool_tasks)]
        while samples[-1][0] - samples[0][0] < seconds and samples[-1][1] > 2_000:
            await asyncio.sleep(1.1)  # the size is measured once a second
            samples.append((time.perf_counter(), producer.status().spool_tasks))
        (began, before), (ended, after) = samples[0], samples[-1]
        return before, (before - after) / (ended - began)


async def curve(url: str, folder: Path, counts: list[int]) -> None:
    for n, count in enumerate(counts):
        settings = Settings.load(
            rabbitmq_url=url,
            ml_data_dir=folder / f"curve{n}",
            ml_log_level="error",
            ml_spool_max_tasks=2 * max(counts),
            ml_spool_max_bytes=2**40,
        )
        accepted = await accept(settings, count)
        waiting, rate = await drain_for(settings, 30)
        print(f"{count:9,} accepted at {accepted:6,.0f}/s; from {waiting:9,} on drained at {rate:6,.0f}/s", flush=True)


async def direct(settings: Settings, count: int) -> float:
    async with Producer(settings) as producer:
        if not await producer.connected(20):
            raise SystemExit(f"no broker: {producer.status().last_error}")
        return await call_many(producer, count, lambda receipt: receipt.confirmed)


async def measure(url: str, folder: Path, count: int, rounds: int, spool: str) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {"accept": [], "drain": [], "direct": []}
    console = Console(stderr=True)
    for n in range(rounds):
        settings = Settings.load(
            rabbitmq_url=url, ml_data_dir=folder / str(n), ml_spool_url=spool, ml_log_level="error"
        )
        for name, way in (("accept", accept), ("drain", drain), ("direct", direct)):
            rates[name].append(await way(settings, count))
            console.print(f"round {n + 1} of {rounds}: {name:7} {rates[name][-1]:8,.0f} tasks/s")
    return rates


def show(rates: dict[str, list[float]]) -> None:
    table = Table(title="An outage: into the spool and out of it (medians; ratios round by round)")
    for column in ("way", "tasks/s", "of direct"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for name, values in rates.items():
        ratio = statistics.median(a / b for a, b in zip(values, rates["direct"], strict=True))
        table.add_row(name, f"{statistics.median(values):,.0f}", f"{ratio:.2f} ×")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spool", default="")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--curve", type=int, nargs="+", metavar="TASKS")
    options = parser.parse_args()
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory() as name, PrivateRabbit(Path(name) / "broker") as rabbit:
        if options.curve:
            asyncio.run(curve(rabbit.url, Path(name), options.curve))
            return
        rates = asyncio.run(measure(rabbit.url, Path(name), options.tasks, options.rounds, options.spool))
    if options.json:
        print(json.dumps(rates))
    else:
        show(rates)


if __name__ == "__main__":
    main()
