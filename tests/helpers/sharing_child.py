"""One process of several on a SQLite spool: `sharing_child.py PATH WHAT`. It says `ready` when the spool is open.

work    after a line on stdin: put rows, then lease and settle until nothing waits; print each id that was settled
hold    lease all, claim the id `claimed`, and live on
fork    the same, with a child that was forked meanwhile, and lives on too; print its process id
close   the same, but let go of the spool
own     put rows, fork a child that has a spool of its own, and let go; then the child puts one; end with it
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

from mlproducer.rows import Done
from mlproducer.spool.sql import SqliteSpool
from mlproducer.testing.spool_contract import claim, row

ROWS = 200
HOLDS = 3_600.0


async def main(path: str, what: str) -> None:
    spool = SqliteSpool(Path(path))
    await spool.open()
    if what == "work":
        say("ready")
        sys.stdin.readline()
        await work(spool)
        await spool.close()
        return
    if what == "own":
        await own(spool, path)
        return
    await spool.lease(100, hold=HOLDS)
    assert await spool.claim(claim("claimed"), hold=HOLDS) is None
    if what in {"fork", "close"}:
        child = os.fork()
        if not child:
            os.close(1)  # or who reads it would wait for this one too
            live_on()
        say(child)
    if what == "close":
        await spool.close()
    say("ready")
    live_on()


async def work(spool: SqliteSpool) -> None:
    rows = [row(f"{os.getpid()}-{n}") for n in range(ROWS)]
    for n in range(0, ROWS, 50):  # several groups, so that all are at it at the same time
        assert all(await asyncio.gather(*map(spool.put, rows[n : n + 50])))
    while (await spool.measure()).tasks:
        leases = await spool.lease(40, hold=HOLDS)
        held = await spool.settle([(lease, Done(0.0, keep=0)) for lease in leases])
        assert all(held)
        say(*(lease.row.envelope.task_id for lease in leases))


async def own(spool: SqliteSpool, path: str) -> None:
    puts = [asyncio.ensure_future(spool.put(row(f"busy-{n}"))) for n in range(100)]
    await asyncio.sleep(0.001)  # the thread is at it
    ready, closed = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        asyncio.run(of_child(path, ready[1], closed[0]))
    await asyncio.gather(*puts)
    await spool.put(row("parent"))
    os.read(ready[0], 1)
    await spool.close()
    os.write(closed[1], b".")
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert status == 0
    say("ready")


async def of_child(path: str, ready: int, closed: int) -> NoReturn:
    spool = SqliteSpool(Path(path))
    await spool.open()
    os.write(ready, b".")
    os.read(closed, 1)
    assert await spool.put(row("child"))
    os._exit(0)  # as if it were killed: nothing is closed in order


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def live_on() -> NoReturn:
    """Until killed, or for as long as a test may last."""
    time.sleep(120)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
