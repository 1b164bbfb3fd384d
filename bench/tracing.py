"""What tracing costs a task, in processor time, over a broker in memory.

    .venv/bin/python bench/tracing.py [--tasks 2000] [--rounds 40] [--json]

`publish_many` of tasks made before, from a `Task` to its `Receipt`. The ways take turns, in an order of its own each
round; the median is taken over the rounds, and differences to the first way round by round.

- `no tracer`: the engine without the one of `telemetry.tracing`;
- `no SDK`: what one has who does not trace;
- `no SDK, in a trace`: the caller is in a trace, which is handed on in the message;
- `sampled out`: an SDK whose sampler takes nothing;
- `recorded`: an SDK that records each span, and an exporter that drops it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from opentelemetry.context import attach, detach
from opentelemetry.propagate import extract
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from rich.console import Console
from rich.table import Table

from mlproducer import Producer, Settings, Task
from mlproducer.rows import Lease
from mlproducer.testing.broker import FakeBroker
from mlproducer.wiring import Overrides

TEXT = ("The quick brown fox jumps over the lazy dog. " * 30)[:960]
REMOTE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


class NoTracer:
    """`delivery.traces.Tracer` that nobody is behind."""

    def call(self, task: Task) -> None:
        del task

    def batch(self, leases: Sequence[Lease]) -> None:
        del leases


class Drop(SpanExporter):
    def export(self, spans: object) -> SpanExportResult:
        del spans
        return SpanExportResult.SUCCESS


class Way:
    """A producer, and what its calls cost."""

    def __init__(self, name: str, sampler: Sampler | None = None, *, within: bool = False) -> None:
        self.name = name
        self.broker = FakeBroker()
        provider = None
        if sampler is not None:
            provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
            provider.add_span_processor(SimpleSpanProcessor(Drop()))
        overrides = Overrides(broker=lambda *_: self.broker, tracer_provider=provider)
        self.producer = Producer(Settings.load(ml_spool_url="memory://"), overrides=overrides)
        self.within = within
        self.costs: list[float] = []

    async def run(self, count: int) -> None:
        """One round: seconds of processor time a task."""
        tasks = [Task(task_type="embed_vectors", payload={"share_id": str(n), "content": TEXT}) for n in range(count)]
        token = attach(extract(REMOTE)) if self.within else None
        gc.collect()
        began = time.process_time()
        async for _ in self.producer.publish_many(tasks):
            pass
        self.costs.append((time.process_time() - began) / count)
        if token is not None:
            detach(token)
        self.broker.queues.clear()


def ways() -> list[Way]:
    without = Way("no tracer")
    without.producer._parts.pipeline._tracer = NoTracer()  # noqa: SLF001  # there is no setting that would take it out
    return [
        without,
        Way("no SDK"),
        Way("no SDK, in a trace", within=True),
        Way("sampled out", ALWAYS_OFF),
        Way("recorded", ALWAYS_ON),
    ]


async def measure(count: int, rounds: int) -> list[Way]:
    found = ways()
    async with AsyncExitStack() as stack:
        for way in found:
            await stack.enter_async_context(way.producer)
            await way.producer.connected(5)
            await way.run(count)
            way.costs.clear()
        for _ in range(rounds):
            for way in random.sample(found, len(found)):
                await way.run(count)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = asyncio.run(measure(given.tasks, given.rounds))
    base = found[0].costs
    rows = [
        {
            "way": way.name,
            "microseconds": round(statistics.median(way.costs) * 1e6, 2),
            "more": round(statistics.median(a - b for a, b in zip(way.costs, base, strict=True)) * 1e6, 2),
            "least": round(min(way.costs) * 1e6, 2),
        }
        for way in found
    ]
    if given.json:
        print(json.dumps(rows))
        return
    table = Table("way", "µs a task (median)", "more than without", "least")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
