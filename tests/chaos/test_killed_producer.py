"""A producer that is killed with -9 under load picks up where it was: what it told its callers is somewhere."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from mlproducer import Producer, Settings
from mlproducer.testing.rabbitmq import PrivateRabbit
from places import places

AT_ONCE = 50
PRODUCER = f"""
import asyncio, sys
from mlproducer import Producer, Settings, Task

async def main():
    settings = Settings.load(rabbitmq_url=sys.argv[1], ml_data_dir=sys.argv[2], ml_drain_poll=0.05, ml_drain_batch={AT_ONCE})
    async with Producer(settings) as producer:
        async def caller():
            while True:
                task = Task(task_type="embed_vectors", payload={{"share_id": "s", "content": "text " * 50}})
                receipt = await producer.publish(task)
                sys.stdout.write(receipt.task_id + "\\n")
                sys.stdout.flush()
        await asyncio.gather(*(caller() for _ in range({AT_ONCE})))

asyncio.run(main())
"""


async def _killed(url: str, folder: Path, moment: float) -> set[str]:
    """Task ids that a producer told its callers before it was killed `moment` seconds after its first receipt."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PRODUCER, url, str(folder), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    first = await process.stdout.readline()
    await asyncio.sleep(moment)
    process.send_signal(signal.SIGKILL)
    rest = await process.stdout.read()
    await process.wait()
    lines = (first + rest).split(b"\n")
    return {line.decode() for line in lines[:-1]}  # the last one may be cut off


async def _trial(rabbit: PrivateRabbit, folder: Path, kills: int) -> None:
    url = rabbit.add_vhost(f"killed-{uuid4().hex[:8]}")
    # Every other producer finds no broker, so that what it accepts is in the spool when it dies.
    nowhere = "amqp://ml:ml_password@127.0.0.1:9/"
    accepted: set[str] = set()
    for kill in range(kills):
        accepted |= await _killed(nowhere if kill % 2 else url, folder, random.uniform(0, 0.1))
    settings = Settings.load(rabbitmq_url=url, ml_data_dir=folder, ml_drain_poll=0.05)
    async with Producer(settings) as producer:
        assert await producer.connected(20), producer.status().last_error
        async with asyncio.timeout(60):
            while await producer.waiting(limit=1):  # noqa: ASYNC110  # the spool has no event for it
                await asyncio.sleep(0.05)
    where = await places(url, folder / "mlproducer.db")
    assert accepted
    assert where.lost(accepted) == set()
    in_flight = 2 * AT_ONCE  # callers and one batch of the drain
    assert where.duplicates <= kills * in_flight, "no more than were in flight at each kill, with the same task id"


async def test_a_producer_killed_under_load_loses_nothing_it_accepted(rabbit: PrivateRabbit, tmp_path: Path) -> None:
    await _trial(rabbit, tmp_path, kills=6)


@pytest.mark.chaos
async def test_a_producer_killed_a_hundred_times_loses_nothing_it_accepted(
    rabbit: PrivateRabbit, tmp_path: Path
) -> None:
    await _trial(rabbit, tmp_path, kills=100)
