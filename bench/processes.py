"""What several processes on one SQLite file take together, beside one alone and beside a file for each.

    .venv/bin/python bench/processes.py [--processes 4] [--rows 8000] [--callers 200] [--rounds 3] [--json]

Each process puts its part of `--rows` rows of 1.2 KiB by `--callers` callers, and then all lease and settle until
nothing waits. `no turns` is one file without `sharing.Turn`: its processes wait in SQLite's own lock alone. `least` is
what the process that was served worst put in the time in which the first one was ready, as a share of that one's: 1 is
fair. `longest` is the longest wait of one put. All rounds take all ways in turn, so that a machine that changes its
speed changes it for all.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mlproducer.errors import SpoolUnavailable
from mlproducer.ids import new_task_id
from mlproducer.spool.sharing import Turn
from mlproducer.spool.sql import SqliteSpool
from mlproducer.testing.spool_contract import DONE, row

BATCH: Final = 500
WAYS: Final = ("alone", "one file", "no turns", "a file each")


async def child(path: Path, rows: int, callers: int) -> None:
    """Prints what it did as JSON: when each tenth of the puts was done, and so on."""
    spool = SqliteSpool(path)
    await spool.open()
    await spool.measure()
    prepared = iter([row(new_task_id(), size=1_200) for _ in range(rows)])
    print("ready", flush=True)
    sys.stdin.readline()
    await spool.measure()  # the others are there now
    done, longest, failed, began = [], 0.0, 0, time.time()

    async def caller() -> None:
        nonlocal longest, failed
        for each in prepared:
            asked = time.perf_counter()
            try:
                await spool.put(each)
                done.append(time.time())
            except SpoolUnavailable:
                failed += 1
            longest = max(longest, time.perf_counter() - asked)

    await asyncio.gather(*(caller() for _ in range(callers)))
    print("put", flush=True)
    sys.stdin.readline()
    drained, drain_began = 0, time.time()
    while (await spool.measure()).tasks:
        leases = await spool.lease(BATCH, hold=60)
        drained += sum(await spool.settle([(lease, DONE) for lease in leases]))
    told = {"began": began, "done": done, "longest": longest, "failed": failed, "drain_began": drain_began}
    print(json.dumps(told | {"drained": drained, "ended": time.time()}))
    await spool.close()


@contextlib.contextmanager
def no_turns(self: Turn) -> Iterator[None]:  # noqa: ARG001  # in the place of a method
    yield


def one_way(way: str, given: argparse.Namespace, folder: Path) -> dict[str, float]:
    count = 1 if way == "alone" else given.processes
    rows = given.rows if way == "alone" else given.rows // given.processes * given.processes
    command = [sys.executable, __file__, "--rows", str(rows // count), "--callers", str(given.callers), "--child"]
    files = [folder / (f"{n}.db" if way == "a file each" else "one.db") for n in range(count)]
    flags = ["--no-turns"] if way == "no turns" else []
    started = [
        subprocess.Popen([*command, str(file), *flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for file in files
    ]
    for step in ("ready", "put"):
        for each in started:
            assert each.stdout is not None  # noqa: S101  # a pipe was asked for
            assert each.stdout.readline() == f"{step}\n"  # noqa: S101  # a bench of nothing must not print a figure
        for each in started:
            assert each.stdin is not None  # noqa: S101  # as above
            each.stdin.write("\n")
            each.stdin.flush()
    return figures([json.loads(each.communicate()[0]) for each in started])


def figures(told: list[dict[str, Any]]) -> dict[str, float]:
    puts = sum(len(each["done"]) for each in told)
    began, ended = min(each["began"] for each in told), max(max(each["done"]) for each in told)
    first = min(max(each["done"]) for each in told)
    by_then = [sum(at <= first for at in each["done"]) for each in told]
    drain = max(each["ended"] for each in told) - min(each["drain_began"] for each in told)
    return {
        "put/s": puts / (ended - began),
        "least": min(by_then) / max(by_then),
        "longest, ms": 1_000 * max(each["longest"] for each in told),
        "failed": sum(each["failed"] for each in told),
        "lease+settle/s": sum(each["drained"] for each in told) / drain,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rows", type=int, default=8_000, help="of all processes of a way together")
    parser.add_argument("--callers", type=int, default=200, help="in each process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure; default: a temporary one")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--no-turns", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        if given.no_turns:
            Turn.taken = no_turns  # type: ignore[method-assign]  # what it would be without
        asyncio.run(child(given.child, given.rows, given.callers))
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(given.rounds):
        for way in WAYS:
            with tempfile.TemporaryDirectory(dir=given.folder) as folder:
                found[way].append(one_way(way, given, Path(folder)))
                print(way, found[way][-1], file=sys.stderr, flush=True)
    medians = {
        way: {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
        for way, rounds in found.items()
    }
    if given.json:
        print(json.dumps(medians, indent=2))
        return
    for way, values in medians.items():
        ratio = values["put/s"] / medians["alone"]["put/s"]
        print(
            f"{way:12}" + "".join(f"{name} {value:10,.2f}  " for name, value in values.items()) + f"{ratio:.2f} x alone"
        )


if __name__ == "__main__":
    main()
