"""What waits for its time outlives its producer: a delayed task, and one that expires."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from mlproducer.testing.rabbitmq import PrivateRabbit
from places import final_places, in_spool, reasons, taken
from private_postgres import PrivatePostgres
from private_redis import PrivateRedis
from producers import NOWHERE, Producers
from trials import FAST, SHARED

LATER = 2.0
"""Seconds until a task is due, or expires."""
CALLS = {"callers": 3, "rest": 0.05}


@contextmanager
def spool_of(kind: str, postgres: PrivatePostgres, folder: Path) -> Iterator[Path | str]:
    if kind == "sqlite":
        yield folder / "mlproducer.db"
    elif kind == "postgresql":
        yield postgres.url(postgres.new_database())
    else:
        (folder / "redis").mkdir()
        with PrivateRedis(folder / "redis") as server:
            yield server.url()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "redis"])
def test_delayed_and_expiring_tasks_outlive_a_killed_producer(
    rabbit: PrivateRabbit, producers: Producers, postgres: PrivatePostgres, tmp_path: Path, kind: str
) -> None:
    url = rabbit.add_vhost(f"later-{uuid4().hex[:8]}")
    with spool_of(kind, postgres, tmp_path) as spool:
        settings: dict[str, Any] = {**FAST, **SHARED, "ml_data_dir": tmp_path}
        if isinstance(spool, str):
            settings["ml_spool_url"] = spool
        # The one has a broker, but too early; the other one's broker is away until it is too late.
        delayed = producers.start({**settings, "rabbitmq_url": url}, wait=True, eta=LATER, **CALLS)
        delayed.until_accepted(3)
        early = delayed.kill()
        assert set(early.receipts) == {"spooled"}
        assert not taken(url), "nothing is published before its time"
        expiring = producers.start({**settings, "rabbitmq_url": NOWHERE}, expires=LATER, **CALLS)
        expiring.until_accepted(3)
        late = expiring.kill()
        assert early.accepted.keys() | late.accepted.keys() <= in_spool(spool)[0]

        time.sleep(LATER)
        producers.start({**settings, "rabbitmq_url": url}, wait=True, drain=True).ended()
        where = final_places(url, spool)
        assert early.accepted.keys() <= where.queues.keys() <= early.called.keys()
        assert late.accepted.keys() <= where.dead <= late.called.keys()
        assert set(reasons(spool).values()) == {"expired"}
        assert not where.spool
        assert where.duplicates == 0, "no killed one had published any"
