"""The judge of lost, altered, invented and doubled, apart from the engine.

It knows three things, and has each from somebody else than the engine that is on trial: what the callers gave and were
told (`Ledger`, written by them), what came out of the queues (through `reader.Reader`), and what lies in the spool (the
SQLite file, opened read-only by `sqlite3` itself). What a message must be is said by `message.expected`. `judge`
compares them and is pure.

    each accepted task is somewhere, whole                                       else it is lost
    each confirmed one is in a queue, or was consumed from it, whole              else its confirm is false
    each message anywhere is what its caller gave: body, headers, where it lies   else it is altered
    each message is of a task that somebody asked for                             else it is a stranger
    each delivery beyond the first had an attempt of which nobody knew the end    else it is unexplained

Delivered means read from a queue by a consumer and acknowledged. The one thing that the engine itself says is which
attempts had no answer; so it cannot hide a second copy but by saying that it may be there. A process that is killed
says nothing: then each task that was not known to be confirmed may have been under way (`Ledger.interrupted`).
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
from typing import Any, Final

from mlproducer.reliability.message import Message, kept
from mlproducer.reliability.reader import Reader

QUEUES: Final = (
    "ml.embed",
    "ml.summarize",
    "ml.transcribe",
    "ml.summarize_local",
    "ml.transcribe_local",
)
WAITING: Final = "mlproducer_waiting"
DEAD: Final = "mlproducer_dead_letters"

PATIENCE: Final = 10.0
"""Seconds that the judge goes on looking for a task before it says lost: a queue that was killed takes some to be
whole again, and to a reader it is empty until then."""
_LOOK: Final = 0.5


class Ledger:
    """What callers gave and were told, in the order in which it was."""

    def __init__(self) -> None:
        self._called: dict[str, str] = {}
        self._states: dict[str, str] = {}
        self._confirmed: set[str] = set()
        self._unsure: Counter[str] = Counter()
        self._went: set[str] = set()

    def called(self, task_id: str, digest: str) -> None:
        """A caller is about to publish it. `digest` as of `message.expected`; of one id it is always the same."""
        self._called.setdefault(task_id, digest)

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

    def unsure(self, task_id: str) -> None:
        """The producer says that an attempt of it had no answer: it may have landed all the same."""
        self._unsure[task_id] += 1

    def interrupted(self) -> None:
        """A producer was killed, or lost its store: what is not known as confirmed may have been under way."""
        self._unsure.update(self._called.keys() - self._confirmed)

    def went(self, task_ids: Iterable[str]) -> None:
        """They were confirmed in the moment in which somebody deleted their queue: RabbitMQ confirms what is on its way
        to it, and what is in it goes with it. So they may be nowhere.
        """
        self._went.update(task_ids)

    @property
    def may_be_gone(self) -> AbstractSet[str]:
        return self._went

    @property
    def accepted(self) -> AbstractSet[str]:
        return self._states.keys()

    @property
    def confirmed(self) -> AbstractSet[str]:
        return self._states.keys() & self._confirmed

    @property
    def asked_for(self) -> AbstractSet[str]:
        return self._called.keys()

    def unsure_attempts(self, task_id: str | None = None) -> int:
        """Of this task, or of all."""
        return self._unsure.total() if task_id is None else self._unsure[task_id]

    def is_whole(self, message: Message) -> bool:
        """It is what its caller gave."""
        return self._called.get(message.task_id) == message.digest

    def states(self, task_ids: Iterable[str]) -> set[str]:
        """What was told of these; "" stands for nothing."""
        return {self._states.get(task_id, "") for task_id in task_ids}


@dataclass(frozen=True, slots=True)
class Places:
    """What was found, and where."""

    delivered: Counter[Message]
    waiting: frozenset[Message] = frozenset()
    dead: frozenset[Message] = frozenset()

    @property
    def deliveries(self) -> Counter[str]:
        """By task id, whole or not."""
        counts: Counter[str] = Counter()
        for message, count in self.delivered.items():
            counts[message.task_id] += count
        return counts


@dataclass(frozen=True, slots=True)
class Verdict:
    """Counts of accepted tasks that are somewhere whole; `duplicated` counts deliveries beyond the first of each."""

    accepted: int
    confirmed: int
    delivered: int
    in_spool: int
    in_dlq: int
    lost: int
    duplicated: int
    unsure: int = 0
    """Attempts of which nobody knew the end."""
    altered: int = 0
    """Messages that are not what their callers gave."""
    strangers: int = 0
    """Messages that nobody asked for."""
    false_confirms: int = 0
    """Confirmed tasks that were in no queue, whole."""
    gone: int = 0
    """Confirmed tasks that went with a queue which was deleted under them."""
    unexplained: int = 0
    """Deliveries beyond the first, and beyond one for each unsure attempt of their task."""

    def faults(self) -> list[str]:
        """In words; empty if all is as it must be."""
        said = (
            (self.lost, f"{self.lost:,} accepted tasks are nowhere, or not as they were given"),
            (self.altered, f"{self.altered:,} messages are not what their callers gave: body, headers or route"),
            (self.strangers, f"{self.strangers:,} messages are of tasks that nobody asked for"),
            (self.false_confirms, f"{self.false_confirms:,} tasks were said to be confirmed, and were in no queue"),
            (self.unexplained, f"{self.unexplained:,} copies came of no attempt that had no answer"),
        )
        return [text for count, text in said if count]


def judge(ledger: Ledger, places: Places) -> Verdict:
    accepted, confirmed = ledger.accepted, ledger.confirmed
    all_found = (*places.delivered.elements(), *places.waiting, *places.dead)
    of_strangers = [message for message in all_found if message.task_id not in ledger.asked_for]
    whole = [message for message in all_found if ledger.is_whole(message)]
    delivered, waiting, dead = (
        {message.task_id for message in place if ledger.is_whole(message)}
        for place in (places.delivered, places.waiting, places.dead)
    )
    found = delivered | waiting | dead
    gone = (confirmed & ledger.may_be_gone) - found
    extra = {task_id: count - 1 for task_id, count in places.deliveries.items()}
    return Verdict(
        accepted=len(accepted),
        confirmed=len(confirmed),
        delivered=len(accepted & delivered),
        in_spool=len(accepted & waiting),
        in_dlq=len(accepted & dead),
        lost=len(accepted - found - gone),
        duplicated=sum(extra.values()),
        unsure=ledger.unsure_attempts(),
        altered=len(all_found) - len(whole) - len(of_strangers),
        strangers=len(of_strangers),
        false_confirms=len(confirmed - delivered - gone),
        gone=len(gone),
        unexplained=sum(max(0, more - ledger.unsure_attempts(task_id)) for task_id, more in extra.items()),
    )


class Judge:
    """Reads the queues at `url` and the spool's file `database`. All calls block."""

    def __init__(self, url: str, database: Path, ledger: Ledger) -> None:
        self._url = url
        self._database = database
        self._ledger = ledger
        self._queues: tuple[str, ...] = QUEUES
        self._delivered: Counter[Message] = Counter()

    def read(self, queues: Iterable[str]) -> None:
        """These too, from now on."""
        self._queues = (*self._queues, *queues)

    def take(self, *queues: str) -> None:
        """Take all that is in these queues, or in all, as their workers would. Raises: ReaderError."""
        with Reader(self._url) as reader:
            for queue in queues or self._queues:
                self._delivered.update(reader.take(queue))

    def waiting(self) -> frozenset[str]:
        return frozenset(row[0] for row in self._select(f"select task_id from {WAITING}"))  # noqa: S608  # our own name

    def dead(self) -> frozenset[str]:
        return frozenset(row[0] for row in self._select(f"select task_id from {DEAD}"))  # noqa: S608  # our own name

    def spent(self) -> int:
        """Attempts that the tasks in the spool have spent."""
        return sum(row[0] for row in self._select(f"select attempts from {WAITING}"))  # noqa: S608  # our own name

    def places(self) -> Places:
        """The spool first: a task that moves on while we look is then found twice rather than not at all."""
        waiting, dead = (frozenset(kept(*row) for row in self._select(rows_of(table))) for table in (WAITING, DEAD))
        self.take()
        return Places(self._delivered.copy(), waiting, dead)

    def verdict(self, patience: float) -> Verdict:
        """Final: what is missing was looked for until `patience` was over. Raises: ReaderError."""
        end = time.monotonic() + patience
        verdict = judge(self._ledger, self.places())
        while (verdict.lost or verdict.false_confirms) and time.monotonic() < end:
            time.sleep(_LOOK)
            verdict = judge(self._ledger, self.places())
        return verdict

    def _select(self, query: str) -> list[tuple[Any, ...]]:
        if not self._database.exists():
            return []
        with closing(sqlite3.connect(f"{self._database.as_uri()}?mode=ro", uri=True, timeout=5)) as spool:
            return spool.execute(query).fetchall()


def rows_of(table: str) -> str:
    """The query for what `message.kept` takes."""
    return f"select task_id, routing_key, properties, body from {table}"  # noqa: S608  # a name of our own
