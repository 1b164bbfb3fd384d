"""Producers that are killed with -9 under load: what they told their callers is somewhere, whatever the spool is.

The broker is there, or cannot be reached, or says that it is blocked. Some callers choose their ids; where theirs were
not answered, they ask the next producer again.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from load_child import CHOSEN
from mlproducer.testing.rabbitmq import PrivateRabbit
from private_postgres import PrivatePostgres
from private_redis import PrivateRedis
from producers import NOWHERE, Producers, Running, Told
from trials import CALLERS, FAST, SHARED, nothing_lost, say

LONGEST_LIFE = 0.2
"""Seconds after the first receipt."""
ASKED_AGAIN = 20
"""Ids of the dead that callers of one producer ask for again."""


@dataclass
class Trial:
    """One spool, one virtual host, and all that was told by producers that are dead now."""

    url: str
    spool: Path | str
    settings: dict[str, Any]
    told: Told = field(default_factory=Told)
    kills: int = 0
    reached: Counter[str] = field(default_factory=Counter)
    """States of the receipts under load."""

    @property
    def to_ask_again(self) -> list[str]:
        return sorted(each for each in self.told.unanswered if each.startswith(CHOSEN))

    def begin(self, producers: Producers, *, broker: bool) -> Running:
        again = self.to_ask_again
        random.shuffle(again)
        return producers.start(
            {**self.settings, "rabbitmq_url": self.url if broker else NOWHERE},
            callers=CALLERS,
            wait=broker and self.kills // 2 % 2 == 0,  # the others are killed while they connect
            again=again[:ASKED_AGAIN],
        )

    def end(self, running: Running) -> None:
        told = running.kill()
        self.kills += 1
        self.reached += told.receipts
        self.told.take_in(told)

    def kill(self, producers: Producers, times: int, *, broker: bool) -> None:
        for _ in range(times):
            running = self.begin(producers, broker=broker)
            running.until_accepted()
            time.sleep(random.uniform(0, LONGEST_LIFE))
            self.end(running)

    def judge(self, producers: Producers) -> None:
        """A last producer, whose callers ask again for all that was not answered; then each task is in the queue."""
        again = self.to_ask_again
        settings = {**self.settings, "rabbitmq_url": self.url, "ml_accept_timeout": 20}
        self.told.take_in(producers.start(settings, wait=True, repeat=again, drain=True).ended())
        assert self.told.unanswered & set(again) == set(), "claims of the dead lapse"
        nothing_lost(self.told, self.url, self.spool, kills=self.kills)
        say(f"receipts under load: {dict(self.reached)}; {len(again)} ids asked again at the end")
        assert self.reached["confirmed"]
        assert self.reached["spooled"], "both ways were under load"


def one_owner(node: PrivateRabbit, producers: Producers, folder: Path, kills: int) -> None:
    """Producers that own one SQLite file, one after the other."""
    trial = Trial(
        node.add_vhost(f"killed-{uuid4().hex[:8]}"),
        folder / "mlproducer.db",
        {**FAST, "ml_data_dir": folder, "ml_accept_timeout": 1.5},  # a claim of the dead lapses 2 s after that
    )
    for _ in range(kills * 2 // 5):
        trial.kill(producers, 1, broker=True)
        trial.kill(producers, 1, broker=False)
    node.memory_alarm(on=True)
    try:
        trial.kill(producers, kills - trial.kills, broker=True)
    finally:
        node.memory_alarm(on=False)
    assert trial.kills == kills
    trial.judge(producers)


@pytest.mark.chaos
def test_a_producer_killed_twenty_times_under_load_loses_nothing_it_accepted(
    node: PrivateRabbit, producers: Producers, tmp_path: Path
) -> None:
    one_owner(node, producers, tmp_path, 20)


@pytest.mark.chaos
def test_a_producer_killed_a_hundred_times_loses_nothing_it_accepted(
    node: PrivateRabbit, producers: Producers, tmp_path: Path
) -> None:
    one_owner(node, producers, tmp_path, 100)


def many_owners(
    node: PrivateRabbit, producers: Producers, folder: Path, spool: str, kills: int, *, at_once: int = 2
) -> None:
    """Producers at the same time on one spool, or in one folder: when one is killed, the others publish and drain.

    In a folder the living end the leases of the dead, which would last for a minute.
    """
    url = node.add_vhost(f"killed-{uuid4().hex[:8]}")
    times = SHARED if spool else {"ml_accept_timeout": SHARED["ml_accept_timeout"]}
    settings = {**FAST, **times, "ml_data_dir": folder, "ml_spool_url": spool}
    trial = Trial(url, spool or folder / "mlproducer.db", settings)
    try:
        _kill_in_turn(trial, producers, kills, at_once, node)
    finally:
        node.memory_alarm(on=False)
    trial.judge(producers)
    assert not [each.words for each in trial.told.refused if "locked" in each.words], "they write in turns"


def _kill_in_turn(trial: Trial, producers: Producers, kills: int, at_once: int, node: PrivateRabbit) -> None:
    lives: list[Running] = []
    while trial.kills < kills:
        if trial.kills == kills * 4 // 5:
            node.memory_alarm(on=True)
        while len(lives) < at_once:
            # The second one already has none: what it accepted before its end was spooled.
            lives.append(trial.begin(producers, broker=(trial.kills + len(lives)) % 4 != 1))
        oldest = lives.pop(0)
        oldest.until_accepted()
        time.sleep(random.uniform(0, LONGEST_LIFE))
        trial.end(oldest)
    for left in lives:
        trial.end(left)


def test_one_of_four_producers_in_one_data_folder_is_killed_and_nothing_is_lost(
    node: PrivateRabbit, producers: Producers, tmp_path: Path
) -> None:
    many_owners(node, producers, tmp_path, "", 4, at_once=4)


@pytest.mark.chaos
def test_one_of_four_producers_in_one_data_folder_is_killed_twenty_times_and_nothing_is_lost(
    node: PrivateRabbit, producers: Producers, tmp_path: Path
) -> None:
    many_owners(node, producers, tmp_path, "", 20, at_once=4)


@pytest.mark.chaos
def test_producers_on_one_postgresql_killed_a_hundred_times_lose_nothing(
    node: PrivateRabbit, producers: Producers, postgres: PrivatePostgres, tmp_path: Path
) -> None:
    many_owners(node, producers, tmp_path, postgres.url(postgres.new_database()), 100)


@pytest.mark.chaos
def test_producers_on_one_redis_killed_a_hundred_times_lose_nothing(
    node: PrivateRabbit, producers: Producers, tmp_path: Path
) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    with PrivateRedis(folder) as server:
        many_owners(node, producers, tmp_path, server.url(), 100)
