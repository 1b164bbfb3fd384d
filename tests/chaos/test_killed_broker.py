"""A broker that is killed with -9 under load, again and again, alone or with the producer."""

from __future__ import annotations

import random
import time
from pathlib import Path
from uuid import uuid4

import pytest

from mlproducer.testing.rabbitmq import PrivateRabbit
from producers import Producers, Running, Told
from trials import CALLERS, FAST, nothing_lost

REST = 0.02
"""Seconds between two calls of a caller: an outage of some seconds is to fill the spool, not the test."""


def trial(rabbit: PrivateRabbit, producers: Producers, folder: Path, rounds: list[str]) -> None:
    """In each round the broker is killed, or "both" are, in any order within some milliseconds."""
    url = rabbit.add_vhost(f"killed-{uuid4().hex[:8]}")
    settings = {**FAST, "rabbitmq_url": url, "ml_data_dir": folder, "ml_confirm_timeout": 2}
    told = Told()
    faults: list[float] = []

    running = producers.start(settings, callers=CALLERS, rest=REST, wait=True)
    running.until_accepted()
    rabbit.sync()
    for fault in rounds:
        running.until_accepted(CALLERS)
        time.sleep(random.uniform(0, 0.2))
        victims: list[PrivateRabbit | Running] = [rabbit, running] if fault == "both" else [rabbit]
        random.shuffle(victims)
        for victim in victims:
            faults.append(time.time())
            victim.kill()
            time.sleep(random.uniform(0, 0.05))
        if fault == "both":
            told.take_in(running.told())
            running = producers.start(settings, callers=CALLERS, rest=REST)
        running.until_accepted(as_="spooled")
        rabbit.start()
        running.until_accepted(as_="confirmed")
    told.take_in(running.stop())
    assert not told.refused
    told.take_in(producers.start(settings, wait=True, drain=True).ended())
    nothing_lost(told, url, folder / "mlproducer.db", kills=len(faults), faults=faults)


@pytest.mark.chaos
def test_a_broker_killed_together_with_its_producer_loses_nothing(
    node: PrivateRabbit, producers: Producers, tmp_path: Path
) -> None:
    trial(node, producers, tmp_path, ["both"])


@pytest.mark.chaos
@pytest.mark.timeout(300)  # ten starts of a broker
def test_a_broker_killed_ten_times_under_load_loses_nothing(
    node: PrivateRabbit, producers: Producers, tmp_path: Path
) -> None:
    trial(node, producers, tmp_path, ["broker"] * 10)


@pytest.mark.chaos
@pytest.mark.timeout(300)  # ten starts of a broker
def test_broker_and_producer_killed_ten_times_in_any_order_lose_nothing(
    node: PrivateRabbit, producers: Producers, tmp_path: Path
) -> None:
    trial(node, producers, tmp_path, ["both"] * 10)
