"""What a scrape costs, and what scraping once a second costs a producer at full load.

    .venv/bin/python bench/scrape.py [--seconds 8] [--rounds 6] [--json]

A private RabbitMQ, one stream of `publish_many` as in bench/publish.py. Within one run of the producer, windows with a
scrape a second and windows without take turns, the order turned round each time; a ratio is of two neighbours. The
scrape is that of the service: made on the event loop, in the process that publishes. Then single scrapes of the same
registry, full of counts, while nothing else runs.
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

from publish import WINDOW, task
from rich.console import Console

from mlproducer import Producer, Receipt, Settings, Task
from mlproducer.testing.rabbitmq import PrivateRabbit

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
SCRAPES = 300


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
            yield task(number)
            number += 1


async def window(load: Load, producer: Producer, seconds: float, *, scraped: bool) -> tuple[float, list[float]]:
    """Tasks a second, and what each scrape took in seconds."""
    took: list[float] = []
    before, started = load.confirmed, time.perf_counter()
    end = started + seconds
    while (left := end - time.perf_counter()) > 0:
        if scraped:
            at = time.perf_counter()
            producer.metrics.prometheus(OPENMETRICS)
            took.append(time.perf_counter() - at)
        await asyncio.sleep(min(1.0, left))
    return (load.confirmed - before) / (time.perf_counter() - started), took


async def measure(url: str, folder: Path, seconds: float, rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"without": [], "with": [], "ratio": [], "scrape under load": []}
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
                rates[scraped], took = await window(load, producer, seconds, scraped=scraped)
                found["scrape under load"] += took
            found["with"].append(rates[True])
            found["without"].append(rates[False])
            found["ratio"].append(rates[True] / rates[False])
            console.print(f"round {number + 1} of {rounds}: {rates[False]:,.0f} without, {rates[True]:,.0f} with")
        load.stop()
        await running
        for name, accept in (("text", ""), ("OpenMetrics", OPENMETRICS)):
            found[name] = []
            for _ in range(SCRAPES):
                at = time.perf_counter()
                producer.metrics.prometheus(accept)
                found[name].append(time.perf_counter() - at)
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
        ms = sorted(1000 * each for each in found[name])
        print(
            f"{name:18} median {statistics.median(ms):.2f} ms, 95 % {ms[int(len(ms) * 0.95)]:.2f}, worst {ms[-1]:.2f}"
        )
    ratios = found["ratio"]
    print(
        f"tasks/s, scraped against not: median {statistics.median(ratios):.4f}, {min(ratios):.4f} to {max(ratios):.4f}"
    )
    spread = statistics.stdev(found["without"]) / statistics.mean(found["without"])
    print(f"without scrapes {statistics.median(found['without']):,.0f} tasks/s, which vary by {spread:.1%} (1 σ)")


if __name__ == "__main__":
    main()
