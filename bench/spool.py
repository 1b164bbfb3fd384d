"""Throughput of a spool, and how it changes as the spool grows.

    .venv/bin/python bench/spool.py [URL] [--rows 40000] [--callers 1000] [--rounds 3] [--curve] [--json]

`URL` is a value of ML_SPOOL_URL; without one, a SQLite file in a temporary folder. Rows are of 1.2 KiB, and a server's
database must have no tasks in it. `memory://` does the same work without a disk, so its column is what the event loop
alone can do, and the ratio is the price of durability. `fsync` is the disk's own figure: appended 4 KiB blocks, each
made durable. `sqlite alone` is what SQLite takes of such rows in transactions of 100, from one thread that does nothing
else: what a SQLite spool could reach at most.

`--curve` fills the spool to 1,000, 10,000, 100,000 and 1,000,000 rows (`--sizes` for others); at each size it puts and
drains some thousand rows more, asks the spool's questions, and reads the memory of this process.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import closing
from pathlib import Path

from mlproducer.ids import new_task_id
from mlproducer.ports import Spool
from mlproducer.rows import DeadFilter, Done, NewRow
from mlproducer.spool import open_spool
from mlproducer.task import Envelope

PROPERTIES = b"p" * 200
BODY = b"x" * 1_024
BATCH = 500
NOW = 1_800_000_000.0
DONE = Done(NOW, keep=0)
SAMPLE = 5_000
"""Rows put and drained at each size of the curve."""
SIZES = (1_000, 10_000, 100_000, 1_000_000)


def row(n: int) -> NewRow:
    # Ids as the library makes them: rising with time. A B-tree minds the difference to random ones.
    task_id = new_task_id()
    return NewRow(Envelope(task_id, "embed_vectors", "ml.embed", PROPERTIES, BODY), NOW, n / 10_000 - 1_000)


async def put_all(spool: Spool, rows: Iterable[NewRow], count: int, callers: int) -> float:
    """Rows a second, each put by one of `callers` that run at once."""
    left = iter(rows)

    async def caller() -> None:
        for each in left:
            assert await spool.put(each)  # noqa: S101  # a bench that stores nothing must not print a figure

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return count / (time.perf_counter() - start)


async def drain_some(spool: Spool, count: int) -> float:
    """Rows a second, leased and settled in batches as the drain does."""
    start, done = time.perf_counter(), 0
    while done < count:
        leases = await spool.lease(min(BATCH, count - done), hold=60)
        done += sum(await spool.settle([(lease, DONE) for lease in leases]))
    return count / (time.perf_counter() - start)


def fsyncs(folder: Path) -> float:
    with (folder / "fsync").open("wb", buffering=0) as file:
        start = time.perf_counter()
        for _ in range(200):
            file.write(b"x" * 4_096)
            os.fdatasync(file.fileno())
        return 200 / (time.perf_counter() - start)


def sqlite_alone(folder: Path, rows: list[NewRow]) -> float:
    """Rows a second, durable, in transactions of 100."""
    with closing(sqlite3.connect(folder / "alone.db", isolation_level=None)) as connection:
        connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE waiting (id TEXT PRIMARY KEY, due_at REAL, body BLOB)")
        connection.execute("CREATE INDEX due ON waiting (due_at)")
        values = [(each.envelope.task_id, each.delay, PROPERTIES + BODY) for each in rows]
        start = time.perf_counter()
        for at in range(0, len(values), 100):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO waiting VALUES (?, ?, ?)", values[at : at + 100])
            connection.execute("COMMIT")
        return len(values) / (time.perf_counter() - start)


def resident() -> float:
    """MB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def say(words: str) -> None:
    """Progress: on the spot on a terminal, else a line each."""
    if sys.stderr.isatty():
        print(f"\r\033[K{words}", end="", file=sys.stderr, flush=True)
    else:
        print(words, file=sys.stderr, flush=True)


async def one_round(url: str, rows: list[NewRow], callers: int) -> tuple[float, float]:
    spool = open_spool(url)
    await spool.open()
    gc.collect()
    gc.freeze()
    puts = await put_all(spool, rows, len(rows), callers)
    drained = await drain_some(spool, len(rows))
    await emptied(spool)
    await spool.close()
    return puts, drained


async def emptied(spool: Spool) -> None:
    """Records forgotten, so that the next round may put the same ids on the same server."""
    while await spool.forget(limit=50_000):
        pass


async def ask_all(spool: Spool) -> dict[str, float]:
    """Milliseconds of each question."""
    questions: dict[str, Callable[[], Awaitable[object]]] = {
        "measure": spool.measure,
        "find": lambda: spool.find("nobody"),
        "waiting, first 100": lambda: spool.waiting(limit=100),
        "dead, first 100": lambda: spool.dead(DeadFilter(), limit=100),
    }
    answers = {}
    for name, ask in questions.items():
        times = []
        for _ in range(5):
            start = time.perf_counter()
            await ask()
            times.append(time.perf_counter() - start)
        answers[f"{name}, ms"] = statistics.median(times) * 1_000
    return answers


async def curve(url: str, sizes: Iterable[int], callers: int) -> dict[str, dict[str, float]]:
    """At each size: rows a second put and drained on top of it, its questions, and the memory of this process."""
    spool = open_spool(url)
    await spool.open()
    numbers, there = itertools.count(), 0
    points: dict[str, dict[str, float]] = {}
    for size in sizes:
        while there < size:
            more = min(size - there, 20_000)
            rate = await put_all(spool, map(row, itertools.islice(numbers, more)), more, callers)
            there += more
            say(f"{there:>9,} of {size:,} rows, {rate:,.0f}/s")
        at = f"{size:,} rows"
        puts, drains = [], []
        for _ in range(3):
            puts.append(await put_all(spool, map(row, itertools.islice(numbers, SAMPLE)), SAMPLE, callers))
            drains.append(await drain_some(spool, SAMPLE))
        points[at] = {"put/s": statistics.median(puts), "lease+settle/s": statistics.median(drains)}
        points[at] |= await ask_all(spool) | {"resident, MB": resident()}
        say(f"at {at}: " + ", ".join(f"{name} {value:,.4g}" for name, value in points[at].items()))
    say("emptying")
    await drain_some(spool, there)
    await emptied(spool)
    await spool.close()
    return points


def compare(given: argparse.Namespace, folder: Path) -> dict[str, float]:
    rows = [row(n) for n in range(given.rows)]
    rounds: dict[str, list[tuple[float, float]]] = {"spool": [], "memory": []}
    for n in range(given.rounds):  # in turns, so that a machine that changes its speed changes it for both
        say(f"round {n + 1} of {given.rounds}")
        url = given.url or f"sqlite:///{folder / f'{n}.db'}"
        rounds["spool"].append(asyncio.run(one_round(url, rows, given.callers)))
        rounds["memory"].append(asyncio.run(one_round("memory://", rows, given.callers)))
    figures = {
        f"{store} {what}/s": statistics.median(each[at] for each in results)
        for store, results in rounds.items()
        for at, what in enumerate(("put", "lease+settle"))
    }
    figures["put, spool : memory"] = figures["spool put/s"] / figures["memory put/s"]
    figures["fsync/s"] = fsyncs(folder)
    figures["sqlite alone, rows/s"] = sqlite_alone(folder, rows)
    return figures


def show(points: dict[str, dict[str, float]]) -> None:
    print(f"{'':24}" + "".join(f"{size:>18}" for size in points))
    for what in next(iter(points.values())):
        print(f"{what:24}" + "".join(f"{figures[what]:18,.1f}" for figures in points.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", help="as ML_SPOOL_URL; default: SQLite in a temporary folder")
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--callers", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="of the curve")
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure; default: a temporary one")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        if given.curve:
            url = given.url or f"sqlite:///{folder / 'curve.db'}"
            points = asyncio.run(curve(url, sorted(given.sizes), given.callers))
            say("")
            print(json.dumps(points, indent=2)) if given.json else show(points)
            return
        figures = compare(given, folder)
    say("")
    if given.json:
        print(json.dumps(figures, indent=2))
    else:
        for what, figure in figures.items():
            print(f"{what:40} {figure:12,.2f}")


if __name__ == "__main__":
    main()
