"""A spool whose store is killed, locked or read-only under load, with and without a broker.

New tasks are refused with the reason in bounded time, those with random ids are confirmed directly while there is a
broker, service resumes by itself, and nothing accepted is lost.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event

from load_child import CHOSEN
from mlproducer import Producer, Settings, Task, TaskState
from mlproducer.errors import SpoolUnavailable
from mlproducer.spool.sql import SqliteSpool
from mlproducer.testing.rabbitmq import PrivateRabbit
from mlproducer.wiring import Overrides
from private_postgres import PrivatePostgres
from private_redis import PrivateRedis
from producers import NOWHERE, Producers, Running, Told
from trials import CALLERS, FAST, SHARED, nothing_lost, say

BOUND = SHARED["ml_accept_timeout"] + 3.0
"""Seconds within which a caller is told: his deadline, and what a busy machine adds."""


def lose(
    server: PrivatePostgres | PrivateRedis, spool: str, rabbit: PrivateRabbit, producers: Producers, rounds: int
) -> None:
    """One producer has a broker and one has none; their store is killed in each round, and started again."""
    url = rabbit.add_vhost(f"store-{uuid4().hex[:8]}")
    settings = {**FAST, **SHARED, "ml_spool_url": spool, "rabbitmq_url": url}
    load: dict[str, Any] = {"callers": CALLERS // 2, "rest": 0.01}
    linked = producers.start(settings, wait=True, **load)
    alone = producers.start({**settings, "rabbitmq_url": NOWHERE}, **load)
    for _ in range(rounds):
        for each in (linked, alone):
            each.until_accepted(50)
        server.kill()
        before = {each: len(each.told().refused) for each in (linked, alone)}
        for each in (linked, alone):
            each.until(lambda told, n=before[each]: len(told.refused) >= n + 20)  # type: ignore[misc]  # bound
        linked.until_accepted(100, as_="confirmed")
        server.start()
        takes_chosen_ids(linked)
        alone.until_accepted(50, as_="spooled")
    told = linked.stop()
    assert all(each.task_id.startswith(CHOSEN) for each in told.refused), "random ids need no spool"
    told.take_in(alone.stop())
    bounded(told)
    told.take_in(producers.start(settings, wait=True, drain=True).ended())
    slowest = max(each.seconds for each in told.refused)
    say(f"{len(told.refused)} refused, the slowest after {slowest:.1f} s")
    # Each round ends the settling of what was being drained, and the noting of what was confirmed.
    nothing_lost(told, url, spool, kills=rounds)


def takes_chosen_ids(running: Running, more: int = 20) -> None:
    def count(told: Told) -> int:
        return sum(each.startswith(CHOSEN) for each in told.accepted)

    wanted = count(running.told()) + more
    running.until(lambda told: count(told) >= wanted)


def bounded(told: Told) -> None:
    assert {each.error for each in told.refused} <= {"SpoolUnavailable", "NotInTime"}
    assert any(each.error == "SpoolUnavailable" and "ML_SPOOL_URL" in each.words for each in told.refused)
    assert max(each.seconds for each in told.refused) < BOUND


@pytest.mark.chaos
def test_a_postgresql_killed_under_load_refuses_and_serves_again(
    rabbit: PrivateRabbit, producers: Producers, own_postgres: PrivatePostgres
) -> None:
    lose(own_postgres, own_postgres.url(own_postgres.new_database()), rabbit, producers, 1)


@pytest.mark.chaos
def test_a_redis_killed_under_load_refuses_and_serves_again(
    rabbit: PrivateRabbit, producers: Producers, tmp_path: Path
) -> None:
    with redis_in(tmp_path) as server:
        lose(server, server.url(), rabbit, producers, 1)


@pytest.mark.chaos
def test_a_postgresql_killed_twenty_times_loses_nothing(
    rabbit: PrivateRabbit, producers: Producers, own_postgres: PrivatePostgres
) -> None:
    lose(own_postgres, own_postgres.url(own_postgres.new_database()), rabbit, producers, 20)


@pytest.mark.chaos
def test_a_redis_killed_twenty_times_loses_nothing(rabbit: PrivateRabbit, producers: Producers, tmp_path: Path) -> None:
    with redis_in(tmp_path) as server:
        lose(server, server.url(), rabbit, producers, 20)


def redis_in(folder: Path) -> PrivateRedis:
    (folder / "redis").mkdir()
    return PrivateRedis(folder / "redis")


def test_a_locked_file_is_waited_for_within_the_deadline_or_refused_and_serves_again(
    rabbit: PrivateRabbit, producers: Producers, tmp_path: Path
) -> None:
    url = rabbit.add_vhost(f"locked-{uuid4().hex[:8]}")
    settings = {**FAST, "ml_data_dir": tmp_path, "rabbitmq_url": NOWHERE, "ml_accept_timeout": 1.5}
    running = producers.start(settings, callers=10, rest=0.01)
    running.until_accepted(50)
    with closing(sqlite3.connect(tmp_path / "mlproducer.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        time.sleep(0.5)
        other.execute("ROLLBACK")
        running.until_accepted(50)
        assert not running.told().refused, "half a second is within each caller's deadline"
        other.execute("BEGIN EXCLUSIVE")
        running.until(lambda told: len(told.refused) >= 10)
        other.execute("ROLLBACK")
    running.until_accepted(50)
    told = running.stop()
    assert {each.error for each in told.refused} == {"NotInTime"}
    assert max(each.seconds for each in told.refused) < 1.5 + 3
    told.take_in(producers.start({**settings, "rabbitmq_url": url}, wait=True, drain=True).ended())
    nothing_lost(told, url, tmp_path / "mlproducer.db", kills=0)


async def test_a_file_that_became_read_only_refuses_confirms_directly_and_serves_again(
    vhost_url: str, tmp_path: Path
) -> None:
    spool = SqliteSpool(tmp_path / "mlproducer.db")
    settings = Settings.load(**FAST, rabbitmq_url=vhost_url, ml_data_dir=tmp_path)
    async with Producer(settings, overrides=Overrides(spool=spool)) as producer:
        assert await producer.connected(20), producer.status().last_error
        is_read_only = read_only(spool)
        is_read_only.set()
        receipt = await producer.publish(embed())
        assert receipt.state is TaskState.CONFIRMED
        with pytest.raises(SpoolUnavailable, match="read-only"):
            await producer.publish(embed(id="mine"))
        is_read_only.clear()
        assert (await producer.publish(embed(id="mine"))).state is TaskState.CONFIRMED
        assert await eventually(producer.is_healthy)


def embed(**given: Any) -> Task:
    return Task(task_type="embed_vectors", payload={"share_id": "s", "content": "text"}, **given)


def read_only(spool: SqliteSpool) -> threading.Event:
    """Set it, and the file is read-only: what SQLite says of one, since root may write to it all the same. Told to a
    connection whenever the pool gives it out: it may hold several.
    """
    is_read_only = threading.Event()
    assert spool._store is not None

    @event.listens_for(spool._store.writing, "checkout")
    def _given_out(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(f"PRAGMA query_only={'ON' if is_read_only.is_set() else 'OFF'}")

    return is_read_only


async def eventually(true: Callable[[], bool]) -> bool:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110  # it has no event
            await asyncio.sleep(0.02)
    return True
