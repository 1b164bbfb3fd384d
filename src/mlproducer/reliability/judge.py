"""The judge of lost and duplicated, apart from the engine.

It knows three things, and has each from somebody else than the engine that is on trial: what the callers were told
(`Ledger`, written as their receipts arrive), what came out of the queues (through `reader.Reader`), and what lies in
the spool (the SQLite file, opened read-only by `sqlite3` itself). `judge` compares them and is pure.

Delivered means read from a queue by a consumer and acknowledged. A task that was told `spooled` and is found in the
queue as well as in the spool is unsure, as an interrupted publish is; it is not lost.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlproducer.reliability.reader import Reader

QUEUES: Final = ("ml.embed", "ml.summarize", "ml.transcribe", "ml.summarize_local", "ml.transcribe_local")
WAITING: Final = "mlproducer_waiting"
DEAD: Final = "mlproducer_dead_letters"

PATIENCE: Final = 10.0
"""Seconds that the judge goes on looking for a task before it says lost: a queue that was killed takes some to be
whole again, and to a reader it is empty until then."""
_LOOK: Final = 0.5


class Ledger:
    """What callers were told, in the order in which they were told."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._confirmed: set[str] = set()

    def told(self, task_id: str, state: str) -> None:
        """A receipt reached its caller."""
        self._states[task_id] = state
        if state == "confirmed":
            self._confirmed.add(task_id)

    def confirmed_later(self, task_id: str) -> None:
        """The producer says that it was confirmed, perhaps from the spool. Nobody may have been told that it was
        accepted: then it does not count.
        """
        self._confirmed.add(task_id)

    @property
    def accepted(self) -> AbstractSet[str]:
        return self._states.keys()

    @property
    def confirmed(self) -> AbstractSet[str]:
        return self._states.keys() & self._confirmed

    def states(self, task_ids: Iterable[str]) -> set[str]:
        """What was told of these; "" stands for nothing."""
        return {self._states.get(task_id, "") for task_id in task_ids}


@dataclass(frozen=True, slots=True)
class Places:
    """Where tasks were found."""

    delivered: Counter[str]
    waiting: frozenset[str]
    dead: frozenset[str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Counts of accepted tasks; `duplicated` counts deliveries beyond the first of each."""

    accepted: int
    confirmed: int
    delivered: int
    in_spool: int
    in_dlq: int
    lost: int
    duplicated: int
    strangers: int = 0
    """Delivered, though no caller was told that they are accepted: their callers died, or gave up, before."""


def judge(ledger: Ledger, places: Places) -> Verdict:
    accepted = ledger.accepted
    return Verdict(
        accepted=len(accepted),
        confirmed=len(ledger.confirmed),
        delivered=len(accepted & places.delivered.keys()),
        in_spool=len(accepted & places.waiting),
        in_dlq=len(accepted & places.dead),
        lost=len(accepted - places.delivered.keys() - places.waiting - places.dead),
        duplicated=sum(count - 1 for count in places.delivered.values()),
        strangers=len(places.delivered.keys() - accepted),
    )


class Judge:
    """Reads the queues at `url` and the spool's file `database`. All calls block."""

    def __init__(self, url: str, database: Path, ledger: Ledger) -> None:
        self._url = url
        self._database = database
        self._ledger = ledger
        self._delivered: Counter[str] = Counter()

    def take(self) -> None:
        """Take all that is in the queues, as their workers would. Raises: ReaderError."""
        with Reader(self._url) as reader:
            for queue in QUEUES:
                self._delivered.update(reader.take(queue))

    def waiting(self) -> frozenset[str]:
        return self._in(WAITING)

    def dead(self) -> frozenset[str]:
        return self._in(DEAD)

    def places(self) -> Places:
        """The spool first: a task that moves on while we look is then found twice rather than not at all."""
        waiting, dead = self.waiting(), self.dead()
        self.take()
        return Places(self._delivered.copy(), waiting, dead)

    def verdict(self, patience: float) -> Verdict:
        """Final: what is missing was looked for until `patience` was over. Raises: ReaderError."""
        end = time.monotonic() + patience
        verdict = judge(self._ledger, self.places())
        while verdict.lost and time.monotonic() < end:
            time.sleep(_LOOK)
            verdict = judge(self._ledger, self.places())
        return verdict

    def _in(self, table: str) -> frozenset[str]:
        if not self._database.exists():
            return frozenset()
        with closing(sqlite3.connect(f"{self._database.as_uri()}?mode=ro", uri=True, timeout=5)) as spool:
            found = spool.execute(f"select task_id from {table}")  # noqa: S608  # a name of our own
            return frozenset(row[0] for row in found)
