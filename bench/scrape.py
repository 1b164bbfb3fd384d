"""What a scrape costs, and what scraping once a second costs a producer at full load.

    .venv/bin/python bench/scrape.py [--seconds 8] [--rounds 6] [--json]

A private RabbitMQ, one stream of `publish_many` as in bench/publish.py. Within one run of the producer, windows with a
scrape a second and windows without take turns, the order turned round each time; a ratio is of two neighbours. The
scrape is that of the service: made on the event loop, in the process that publishes. Then single scrapes of the same
counts, without load. All is told by the clock and by processor time: on a machine that others use too, the clock tells
of them as well.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from mlproducer import Producer, Receipt, Settings, Task
from mlproducer.testing.rabbitmq import PrivateRabbit

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
SCRAPES = 300
WINDOW = 1_000
TEXT = ("The quick brown fox jumps over the lazy dog. " * 30)[:960]


class Load:
    """Publishes until `stop`, and counts."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._going = True
        self.confirmed = 0

    def stop(self) -> None:
        self._going = False

    async def run(self) -> None:
        async for result in self._producer.publish_many(self._tasks(), window=WINDOW):
            if not (isinstance(result, Receipt) and result.confirmed):
                raise SystemExit(f"not confirmed: {result}")
            self.confirmed += 1

    def _tasks(self) -> Iterator[Task]:
        number = 0
        while self._going:
            yield Task(task_type="embed_vectors", payload={"share_id": str(number), "content": TEXT})
            number += 1


def scrape(producer: Producer, accept: str) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    at, worked = time.perf_counter(), time.thread_time()
    producer.metrics.prometheus(accept)
    return time.perf_counter() - at, time.thread_time() - worked


async def window(
    load: Load, producer: Producer, seconds: float, *, scraped: bool
) -> tuple[float, float, list[tuple[float, float]]]:
    """Tasks a second, tasks a second of this process's processor time, and the scrapes."""
    took: list[tuple[float, float]] = []
    before, started, worked = load.confirmed, time.perf_counter(), time.process_time()
    end = started + seconds
    while (left := end - time.perf_counter()) > 0:
        if scraped:
            took.append(scrape(producer, OPENMETRICS))
        await asyncio.sleep(min(1.0, left))
    done = load.confirmed - before
    return done / (time.perf_counter() - started), done / (time.process_time() - worked), took


async def measure(url: str, folder: Path, seconds: float, rounds: int) -> dict[str, list[Any]]:
    names = ("without", "ratio", "ratio of processor", "scrape under load", "text", "OpenMetrics")
    found: dict[str, list[Any]] = {name: [] for name in names}
    settings = Settings.load(rabbitmq_url=url, ml_data_dir=folder, ml_log_level="error")
    console = Console(stderr=True)
    async with Producer(settings) as producer:
        if not await producer.connected(20):
            raise SystemExit("the private broker did not answer")
        load = Load(producer)
        running = asyncio.create_task(load.run())
        await window(load, producer, 2.0, scraped=False)
        for number in range(rounds):
            rates = {}
            for scraped in (number % 2 == 0, number % 2 == 1):
                *rates[scraped], took = await window(load, producer, seconds, scraped=scraped)
                found["scrape under load"] += took
            (plain, plain_work), (rate, work) = rates[False], rates[True]
            found["without"].append(plain)
            found["ratio"].append(rate / plain)
            found["ratio of processor"].append(work / plain_work)
            console.print(f"round {number + 1} of {rounds}: {plain:,.0f} tasks/s without, {rate:,.0f} with")
        load.stop()
        await running
        for _ in range(SCRAPES):
            found["text"].append(scrape(producer, ""))
            found["OpenMetrics"].append(scrape(producer, OPENMETRICS))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory() as name, PrivateRabbit(Path(name) / "broker") as rabbit:
        found = asyncio.run(measure(rabbit.url, Path(name), options.seconds, options.rounds))
    if options.json:
        print(json.dumps(found))
        return
    for name in ("text", "OpenMetrics", "scrape under load"):
        for kind, values in zip(("clock", "processor"), zip(*found[name], strict=True), strict=True):
            ms = sorted(1000 * each for each in values)
            middle, high = statistics.median(ms), ms[int(len(ms) * 0.95)]
            print(f"{name:18} {kind:9} median {middle:.2f} ms, 95 % within {high:.2f}, worst {ms[-1]:.2f}")
    for name in ("ratio", "ratio of processor"):
        ratios = found[name]
        middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
        print(f"tasks, scraped against not, {name}: median {middle:.4f}, {low:.4f} to {high:.4f}")
    spread = statistics.stdev(found["without"]) / statistics.mean(found["without"])
    print(f"without scrapes {statistics.median(found['without']):,.0f} tasks/s, which vary by {spread:.1%} (1 σ)")


if __name__ == "__main__":
    main()
