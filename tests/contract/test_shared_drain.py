"""Several processes on one PostgreSQL spool: each row is leased once while nobody fails."""

from __future__ import annotations

import asyncio
import sys

import pytest

from mlproducer.spool.sql import PostgresSpool
from mlproducer.testing.spool_contract import row
from starting import run_together

# It says each id that it leased, after its verdict was taken. It ends when nothing waits any more.
PROGRAM = """
import asyncio, sys
from mlproducer.spool.sql import PostgresSpool
from mlproducer.rows import Done

async def drain(url):
    spool = PostgresSpool(url)
    await spool.open()
    print("ready", flush=True)
    sys.stdin.readline()
    while (await spool.measure()).tasks:
        leases = await spool.lease(100, hold=3600)
        held = await spool.settle([(lease, Done(0.0, keep=0)) for lease in leases])
        for lease, ours in zip(leases, held, strict=True):
            print(lease.row.envelope.task_id if ours else "lost")
    await spool.close()

asyncio.run(drain(sys.argv[1]))
"""


async def drained_once(url: str, processes: int, rows: int) -> None:
    spool = PostgresSpool(url)
    await spool.open()
    ids = [f"t{n}" for n in range(rows)]
    for at in range(0, rows, 10_000):
        assert all(await asyncio.gather(*(spool.put(row(each)) for each in ids[at : at + 10_000])))
    command = [sys.executable, "-c", PROGRAM, url]
    taken = await run_together(command, processes)
    assert sorted(each for leased in taken for each in leased) == sorted(ids)
    assert sum(bool(leased) for leased in taken) > 1, "they worked at the same time"
    size = await spool.measure()
    assert (size.tasks, size.bytes, size.next_due_at) == (0, 0, None)
    assert await spool.forget(limit=rows * 2) == rows, "each left one record"
    await spool.close()


async def test_processes_that_drain_one_spool_lease_each_row_once(postgres_url: str) -> None:
    await drained_once(postgres_url, 4, 4_000)


@pytest.mark.chaos
@pytest.mark.parametrize("processes", [2, 4])
async def test_processes_that_drain_a_large_spool_lease_each_row_once(postgres_url: str, processes: int) -> None:
    await drained_once(postgres_url, processes, 100_000)
