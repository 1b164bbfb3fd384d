"""Producers on hosts whose clocks are minutes apart, on one spool: nothing is published twice, and nothing late.

Each is a process of its own, whose wall clock is wrong by so much.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from mlproducer.testing.rabbitmq import PrivateRabbit
from private_redis import PrivateRedis
from producers import NOWHERE, Producers, Told
from trials import nothing_lost, say

APART = (0.0, 90.0, -90.0)
LATE = 60.0
"""Seconds: two thirds of how far they are apart, on a machine that does much else."""


def published_once(rabbit: PrivateRabbit, producers: Producers, spool: str, rows: int) -> None:
    """A third each is spooled by a host that is right, ahead and behind, a tenth by ids that callers chose; all three
    drain, and meanwhile the chosen ids are published again, at another host.
    """
    url = rabbit.add_vhost(f"apart-{uuid4().hex[:8]}")
    settings: dict[str, Any] = {"ml_spool_url": spool, "rabbitmq_url": url, "ml_drain_lease": 30}
    chosen = [[f"chosen-{host}-{n}" for n in range(rows // 30)] for host in range(len(APART))]
    away = {**settings, "rabbitmq_url": NOWHERE}
    each = rows // len(APART) - rows // 30
    puts = [producers.start(away, fill=each, repeat=ids, ahead=ahead) for ids, ahead in zip(chosen, APART, strict=True)]
    all_told = Told()
    for put in puts:
        all_told.take_in(put.ended())
    began = time.monotonic()
    others = chosen[1:] + chosen[:1]
    drains = [
        producers.start(settings, wait=True, repeat=ids, drain=True, events=True, ahead=ahead)
        for ids, ahead in zip(others, APART, strict=True)
    ]
    told = [drain.ended() for drain in drains]
    drained = time.monotonic() - began
    for drain in told:
        all_told.take_in(drain)
    nothing_lost(all_told, url, spool, kills=0)  # each is in the queue as it was given, and once
    confirmed = Counter(task_id for drain in told for task_id in drain.confirmed)
    say(f"{rows} rows drained in {drained:.1f} s by {[len(drain.confirmed) for drain in told]}")
    assert [drain.unsure for drain in told] == [{}] * len(APART), "nothing was a reason to publish a task again"
    assert [drain.refused for drain in told] == [[]] * len(APART)
    assert confirmed == Counter(all_told.accepted.keys())
    assert drained < LATE, "and none waited for a clock that is behind"


@pytest.mark.chaos
def test_hosts_apart_on_one_postgresql_publish_3000_rows_once(
    rabbit: PrivateRabbit, producers: Producers, postgres_url: str
) -> None:
    published_once(rabbit, producers, postgres_url, 3_000)


@pytest.mark.chaos
def test_hosts_apart_on_one_redis_publish_3000_rows_once(
    rabbit: PrivateRabbit, producers: Producers, tmp_path: Path
) -> None:
    (tmp_path / "redis").mkdir()
    with PrivateRedis(tmp_path / "redis") as server:
        published_once(rabbit, producers, server.url(), 3_000)
