"""Throughput of the embedded spool, and what its measures cost when it is large.

    .venv/bin/python bench/spool.py [--rows 40000] [--callers 1000] [--rounds 3] [--large 1000000] [--json]

Rows of 1.2 KiB. `memory://` does the same work without a disk, so its column is what the event loop alone can do and
the ratio is the price of durability. `fsync` is the disk's own figure: appended 4 KiB blocks, each made durable.
With `--large`, a spool of that many rows is measured, listed and leased from.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from mlproducer.ports import Done, Lease, Spool, SpoolRow
from mlproducer.spool import open_spool
from mlproducer.task import Envelope

PROPERTIES = b"p" * 200
BODY = b"x" * 1_024
BATCH = 500
NOW = 1_800_000_000.0


def row(n: int) -> SpoolRow:
    # Ids as they come: random, not rising. A B-tree minds the difference.
    task_id = f"{(n * 0x9E3779B97F4A7C15) % 2**64:016x}-{n:08d}"
    at = NOW - 1_000 + n / 10_000
    return SpoolRow(Envelope(task_id, "embed_vectors", "ml.embed", PROPERTIES, BODY), at, at)


async def put_all(spool: Spool, rows: list[SpoolRow], callers: int) -> float:
    """Rows a second, each put by one of `callers` that run at once."""
    left = iter(rows)

    async def caller() -> None:
        for each in left:
            assert await spool.put(each)  # noqa: S101  # a bench that stores nothing must not print a figure

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return len(rows) / (time.perf_counter() - start)


async def drain_all(spool: Spool, count: int) -> float:
    """Rows a second, leased and settled in batches as the drain does."""
    start, done = time.perf_counter(), 0
    while done < count:
        leases: list[Lease] = list(await spool.lease(BATCH, now=NOW, until=NOW + 60))
        done += sum(await asyncio.gather(*(spool.settle(lease, Done()) for lease in leases)))
    return count / (time.perf_counter() - start)


def fsyncs(folder: Path) -> float:
    with (folder / "fsync").open("wb", buffering=0) as file:
        start = time.perf_counter()
        for _ in range(200):
            file.write(b"x" * 4_096)
            os.fdatasync(file.fileno())
        return 200 / (time.perf_counter() - start)


async def one_round(url: str, rows: list[SpoolRow], callers: int) -> tuple[float, float]:
    spool = open_spool(url)
    await spool.open()
    gc.collect()
    gc.freeze()
    puts = await put_all(spool, rows, callers)
    drained = await drain_all(spool, len(rows))
    await spool.close()
    return puts, drained


async def large(folder: Path, count: int, callers: int) -> dict[str, float]:
    """Milliseconds of each question to a spool of `count` rows, and how fast its last rows went in."""
    spool = open_spool(f"sqlite:///{folder / 'large.db'}")
    await spool.open()
    last = 0.0
    for at in range(0, count, 50_000):
        last = await put_all(spool, [row(n) for n in range(at, min(at + 50_000, count))], callers)
    questions: dict[str, Callable[[], Awaitable[object]]] = {
        "measure": spool.measure,
        "find": lambda: spool.find("nobody"),
        "waiting, first 100": lambda: spool.waiting(limit=100),
        "lease 500": lambda: spool.lease(BATCH, now=NOW, until=NOW + 60),
    }
    answers = {"put/s": last}
    for name, ask in questions.items():
        times = []
        for _ in range(5):
            start = time.perf_counter()
            await ask()
            times.append(time.perf_counter() - start)
        answers[f"{name}, ms"] = statistics.median(times) * 1_000
    await spool.close()
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--callers", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", type=int, default=0, metavar="ROWS")
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure; default: a temporary one")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = [row(n) for n in range(given.rows)]
    rounds: dict[str, list[tuple[float, float]]] = {"sqlite": [], "memory": []}
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        for n in range(given.rounds):  # in turns, so that a machine that changes its speed changes it for both
            rounds["sqlite"].append(asyncio.run(one_round(f"sqlite:///{folder / f'{n}.db'}", rows, given.callers)))
            rounds["memory"].append(asyncio.run(one_round("memory://", rows, given.callers)))
        figures = {
            f"{store} {what}/s": statistics.median(each[at] for each in results)
            for store, results in rounds.items()
            for at, what in enumerate(("put", "lease+settle"))
        }
        figures["put, sqlite : memory"] = figures["sqlite put/s"] / figures["memory put/s"]
        figures["fsync/s"] = fsyncs(folder)
        if given.large:
            questions = asyncio.run(large(folder, given.large, given.callers))
            figures |= {f"{what} at {given.large:,} rows": took for what, took in questions.items()}
    if given.json:
        print(json.dumps(figures, indent=2))
    else:
        for what, figure in figures.items():
            print(f"{what:40} {figure:12,.2f}")


if __name__ == "__main__":
    main()
