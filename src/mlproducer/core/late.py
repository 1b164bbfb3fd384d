"""Tasks whose attempt may still be answered, though its time is over: what a late answer does to each.

The answer belongs to one attempt (`core.confirms`), and the attempt to one task: to the one that was accepted then, and
not to all that ever have its id. An id may be removed and given anew, with other content, while an answer to its first
bearer may come. So the book knows tasks by a key that no other acceptance has.

The task itself has moved on: it goes into the spool, and is put off there for as long as the answer may come, since a
copy meanwhile would be one too many. Where it is when the answer comes decides what is done:

    place     a pass                          a fault                     the drain takes it   its attempt ends
    WRITING   noted                           noted, if no other is open  –                    –
    WAITING   the row is settled, if nobody   likewise                    → FLYING             –
              holds it
    FLYING    the attempt that is under way   nothing: that attempt will  –                    → WRITING, or
              is confirmed                    say                                              forgotten
    a pass    –                               –                           not written: done    –
    is noted

WRITING ends when the row is written: what was noted is done then, else → WAITING. A fault counts only if no other
attempt of the task may still be answered, for that one may have landed.

A pass whose row somebody holds stays noted. If that is our own drain, it finds the note before it writes. If it is
another process, that one settles the row, and nothing is told twice: telling follows a settle that said yes.

An answer that will never come, for the link was lost or the time is over, is told too, as `Unsure`. It counts as a
fault: the row is due at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Generic, TypeVar

from mlproducer.outcome import Confirmed, Outcome

R = TypeVar("R")
F = TypeVar("F")

MOST: Final = 100_000
"""Tasks that are remembered; the oldest are forgotten first, which may cost each a copy."""


class Place(Enum):
    WRITING = auto()
    WAITING = auto()
    FLYING = auto()


@dataclass(frozen=True, slots=True)
class Settle(Generic[R]):
    """Settle this row, which nobody holds as far as we know, with the outcome; then say `settled` or `elsewhere`."""

    row: R
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Confirm(Generic[F]):
    """The attempt under way, which is another one of the same task, need not be waited for: it is confirmed."""

    flight: F


@dataclass(slots=True)
class _Task(Generic[R, F]):
    place: Place = Place.WRITING
    open: int = 0
    """Attempts that may still be answered."""
    answer: Outcome | None = None
    row: R | None = None
    flight: F | None = None


class LateBook(Generic[R, F]):
    """By key, one for each acceptance. `R` is what the shell keeps of a row that waits, `F` of an attempt under way."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[Hashable, _Task[R, F]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def open(self) -> bool:
        """An answer may still come."""
        return any(task.open for task in self._tasks.values())

    def opened(self, key: Hashable) -> None:
        """The time of an attempt is over, its answer may come, and its row is about to be written."""
        task = self._tasks.setdefault(key, _Task())
        task.place, task.flight = Place.WRITING, None
        task.open += 1
        if len(self._tasks) > MOST:
            self._tasks.popitem(last=False)

    def written(self, key: Hashable, row: R) -> Settle[R] | None:
        """The row waits. What came meanwhile is to be settled now."""
        task = self._tasks.get(key)
        if task is None or task.place is not Place.WRITING:
            return None
        task.place, task.row = Place.WAITING, row
        if task.answer is not None:
            return Settle(row, task.answer)
        self._tidy(key, task)
        return None

    def answered(self, key: Hashable, outcome: Outcome) -> Settle[R] | Confirm[F] | None:
        """What an attempt of the task, one that was `opened`, came to."""
        task = self._tasks.get(key)
        if task is None:
            return None
        task.open -= 1
        passed = type(outcome) is Confirmed
        if not passed and (task.open or type(task.answer) is Confirmed):
            self._tidy(key, task)
            return None
        if task.place is Place.FLYING and task.flight is not None:
            return self._confirmed(key, task.flight) if passed else None
        task.answer = outcome
        return None if task.place is Place.WRITING or task.row is None else Settle(task.row, outcome)

    def settled(self, key: Hashable) -> None:
        """The row was settled as asked for, or as its own attempt's answer says for good."""
        self._tasks.pop(key, None)

    def elsewhere(self, key: Hashable, outcome: Outcome) -> None:
        """Somebody holds the row, or the store is away. A pass stays noted for our own drain."""
        task = self._tasks.get(key)
        if task is not None and task.answer is outcome and type(outcome) is not Confirmed:
            task.answer = None
            self._tidy(key, task)

    def noted(self, key: Hashable) -> bool:
        """It was confirmed, and its row is not settled yet."""
        task = self._tasks.get(key)
        return task is not None and type(task.answer) is Confirmed

    def taken(self, key: Hashable, flight: F) -> bool:
        """The drain has leased the row and would write it now. False: a late answer confirmed it, so it is done."""
        task = self._tasks.get(key)
        if task is None:
            return True
        if type(task.answer) is Confirmed:
            del self._tasks[key]
            return False
        task.place, task.row, task.flight, task.answer = Place.FLYING, None, flight, None
        return True

    def ended(self, key: Hashable) -> None:
        """The attempt that was `taken` ended without a confirm, for good; its row is about to be written."""
        task = self._tasks.get(key)
        if task is not None and task.place is Place.FLYING:
            task.place, task.flight = Place.WRITING, None
            self._tidy(key, task)

    def _confirmed(self, key: Hashable, flight: F) -> Confirm[F]:
        del self._tasks[key]
        return Confirm(flight)

    def _tidy(self, key: Hashable, task: _Task[R, F]) -> None:
        """Forget what no answer can come for, and none has."""
        if not task.open and task.answer is None and task.place is not Place.FLYING:
            del self._tasks[key]
