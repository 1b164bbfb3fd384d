"""Whole producers, two and four, that drain one spool: each row is published once while nobody fails."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from mlproducer.testing.rabbitmq import PrivateRabbit
from places import in_spool
from private_postgres import PrivatePostgres
from private_redis import PrivateRedis
from producers import NOWHERE, Producers
from trials import nothing_lost, say


def drain_together(rabbit: PrivateRabbit, producers: Producers, spool: str, processes: int, rows: int) -> None:
    """The settings are the defaults, as a user has them: only so a lease that is too short would show."""
    url = rabbit.add_vhost(f"shared-{uuid4().hex[:8]}")
    settings: dict[str, Any] = {"ml_spool_url": spool, "rabbitmq_url": url}
    began = time.monotonic()
    put = producers.start({**settings, "rabbitmq_url": NOWHERE}, fill=rows).ended()
    filled = time.monotonic() - began
    assert put.receipts == {"spooled": rows}
    assert in_spool(spool)[0] == put.accepted.keys()

    began = time.monotonic()
    drains = [producers.start(settings, wait=True, drain=True, events=True) for _ in range(processes)]
    told = [drain.ended() for drain in drains]
    drained = time.monotonic() - began
    for drain in told:
        put.take_in(drain)
    nothing_lost(put, url, spool, kills=0)  # each is in the queue as it was given, and once
    published = Counter(each for drain in told for each in drain.confirmed)
    shares = [len(drain.confirmed) for drain in told]
    say(
        f"{rows} rows: put in {filled:.1f} s ({rows / filled:,.0f}/s), drained by {processes} in {drained:.1f} s "
        f"({rows / drained:,.0f}/s, start and end included), shares {shares}"
    )
    # A confirm that came too late, or a connection that failed, would be a reason to publish a task again.
    assert [drain.failures for drain in told] == [[]] * processes
    assert [drain.unsure for drain in told] == [{}] * processes
    assert published == Counter(put.accepted.keys()), "one producer says of each that it is confirmed"
    assert min(shares) > rows / processes / 10, "they worked at the same time"


@pytest.mark.chaos
def test_two_producers_on_one_postgresql_publish_2000_rows_once(
    rabbit: PrivateRabbit, producers: Producers, postgres_url: str
) -> None:
    drain_together(rabbit, producers, postgres_url, 2, 2_000)


@pytest.mark.chaos
@pytest.mark.parametrize("processes", [2, 4])
def test_producers_on_one_postgresql_publish_100000_rows_once(
    rabbit: PrivateRabbit, producers: Producers, postgres: PrivatePostgres, processes: int
) -> None:
    drain_together(rabbit, producers, postgres.url(postgres.new_database()), processes, 100_000)


@pytest.mark.chaos
@pytest.mark.parametrize("processes", [2, 4])
def test_producers_on_one_redis_publish_100000_rows_once(
    rabbit: PrivateRabbit, producers: Producers, tmp_path: Path, processes: int
) -> None:
    (tmp_path / "redis").mkdir()
    with PrivateRedis(tmp_path / "redis") as server:
        drain_together(rabbit, producers, server.url(), processes, 100_000)
