"""From the user's commit to the broker, and what a crash on the way leaves."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, text

from engine_bench import Bench, bench, embed, until
from mlproducer import Outbox, Settings, TaskState
from outbox_ways import over

POLL = 30.0
"""Seconds, for the drain: what comes sooner did not come by the poll."""
HOUSE = "CREATE TABLE orders (id TEXT PRIMARY KEY)"


async def delivered(running: Bench, *task_ids: str) -> None:
    await until(lambda: set(task_ids) <= set(running.broker.task_ids()), 20.0)


async def test_on_postgresql_the_commit_itself_starts_the_publish(
    postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    running = bench(ml_spool_url=postgres_url, ml_drain_poll=POLL)
    outbox = Outbox(running.producer.settings)
    took = []
    async with running.producer as producer, await psycopg.AsyncConnection.connect(postgres_url) as connection:
        assert await producer.connected(5)
        first = embed()
        await outbox.add(connection, first)
        await connection.commit()
        await delivered(running, first.id)  # the listener is there by now
        for n in range(20):
            given = embed(n)
            await outbox.add(connection, given)
            await asyncio.sleep(0.01)
            assert given.id not in running.broker.task_ids(), "not before the commit"
            await connection.commit()
            since = time.perf_counter()
            await delivered(running, given.id)
            took.append(time.perf_counter() - since)
        # No wall-clock promise in a test, but for this: it was not the poll.
        assert max(took) < POLL / 3
        assert (await producer.receipt(first.id)).state is TaskState.CONFIRMED
        async with asyncio.timeout(10):
            while await producer.waiting():  # noqa: ASYNC110  # the spool has no event for it
                await asyncio.sleep(0.02)
    assert running.broker.task_ids().count(first.id) == 1
    with capsys.disabled():
        print(f"\ncommit to broker: median {statistics.median(took) * 1_000:.1f} ms, worst {max(took) * 1_000:.1f} ms")  # noqa: T201  # a figure to read, not to fail by


async def test_without_notify_the_poll_finds_it(postgres_url: str) -> None:
    running = bench(ml_spool_url=postgres_url, ml_drain_poll=0.2)
    outbox = Outbox(running.producer.settings, notify=False)
    async with running.producer, await psycopg.AsyncConnection.connect(postgres_url) as connection:
        given = embed()
        await outbox.add(connection, given)
        await connection.commit()
        await delivered(running, given.id)


async def test_on_sqlite_the_poll_finds_it_beside_a_running_producer(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    running = bench(ml_spool_url=url, ml_drain_poll=0.2)
    engine = create_engine(url)
    async with running.producer as producer:
        outbox = Outbox(producer.settings)
        given = [embed(n) for n in range(20)]
        with engine.begin() as connection:
            connection.execute(text(HOUSE))
        for each in given:
            with engine.begin() as connection:
                connection.execute(text("INSERT INTO orders VALUES (:id)"), {"id": each.id})
                outbox.add(connection, each)
            await producer.publish(embed(id=f"beside-{each.id}"))
        await delivered(running, *(each.id for each in given))
    engine.dispose()


async def test_an_expired_task_of_the_outbox_is_kept_as_a_dead_letter(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    engine = create_engine(url)
    outbox = Outbox(Settings.load(ml_spool_url=url))
    outbox.create_tables(engine)
    given = embed(expires=datetime.now(UTC) + timedelta(seconds=0.3))
    with engine.begin() as connection:
        outbox.add(connection, given)
    engine.dispose()
    await asyncio.sleep(0.4)
    running = bench(ml_spool_url=url)
    async with running.producer as producer:
        async with asyncio.timeout(10):
            while not await producer.dead_letters():  # noqa: ASYNC110  # the spool has no event for it
                await asyncio.sleep(0.02)
        assert (await producer.receipt(given.id)).state is TaskState.EXPIRED
    assert running.broker.task_ids() == []


# The user's process: it saves an order with its task, and is killed with -9 on the way.
PROGRAM = """
import os, signal, sys
from sqlalchemy import create_engine, text
from mlproducer import Outbox, Settings, Task

url, driver_url, moment = sys.argv[1:]
outbox = Outbox(Settings.load(ml_spool_url=url))
engine = create_engine(driver_url)
with engine.begin() as connection:
    connection.execute(text("CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY)"))
connection = engine.connect()
connection.execute(text("INSERT INTO orders VALUES ('order-1')"))
outbox.add(connection, Task(id="order-1", task_type="embed_vectors", payload={"share_id": "1", "content": "text"}))
if moment == "after":
    connection.commit()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_process_killed_before_its_commit_leaves_nothing_and_after_it_the_task(
    kind: str, moment: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    driver_url = over(url, "sqlite" if kind == "sqlite" else "postgresql+psycopg")
    engine = create_engine(driver_url)
    Outbox(Settings.load(ml_spool_url=url)).create_tables(engine)
    command = (sys.executable, "-c", PROGRAM, url, driver_url.render_as_string(hide_password=False), moment)
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, complaint = await process.communicate()
    assert process.returncode == -9, complaint.decode()

    with engine.begin() as connection:
        orders = connection.execute(text("SELECT id FROM orders")).scalars().all()
    engine.dispose()
    running = bench(ml_spool_url=url)
    async with running.producer as producer:
        assert await producer.connected(5)
        probe = await producer.publish(embed())
        await delivered(running, *orders)
    assert orders == (["order-1"] if moment == "after" else [])
    assert sorted(running.broker.task_ids()) == sorted([probe.task_id, *orders]), "each once"
