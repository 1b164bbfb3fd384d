"""What the writing thread can be asked for: each command says how many of its kind are done at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Generic, TypeVar

from mlproducer.rows import Bury, Claim, Known, NewRow, Settlement, Tally
from mlproducer.spool.counters import count_tallies
from mlproducer.spool.statements import Confirmation, claim_rows, confirm_rows, put_rows, settle_rows
from mlproducer.spool.transaction import Transaction

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, eq=False)
class Command(Generic[Item, Answer]):
    perform: Callable[[Transaction, Sequence[Item]], Sequence[Answer]]
    """All items in few statements; an answer for each, in their order."""
    weigh: Callable[[Sequence[Item]], tuple[int, int]]
    """Rows and bytes that they write, about."""
    adds: bool = False
    """What is new needs a file that will be found again, on a disk with room. What is in it may still go out."""
    last: bool = False
    """Instances add to the same sums. In one statement, the last of its transaction, they take those in one order, and
    hold them for a moment only; in several, two transactions could each wait for the other's."""


def _rows(items: Sequence[object]) -> tuple[int, int]:
    return len(items), 0


def _weigh_rows(rows: Sequence[NewRow]) -> tuple[int, int]:
    return len(rows), sum(row.envelope.size for row in rows)


def _weigh_settlements(batches: Sequence[Sequence[Settlement]]) -> tuple[int, int]:
    buried = sum(lease.row.envelope.size for batch in batches for lease, verdict in batch if isinstance(verdict, Bury))
    return sum(map(len, batches)), buried


def _weigh_tallies(batches: Sequence[Sequence[Tally]]) -> tuple[int, int]:
    return sum(map(len, batches)), 0


def _confirm(tx: Transaction, confirmed: Sequence[Confirmation]) -> Sequence[None]:
    confirm_rows(tx, confirmed)
    return [None] * len(confirmed)


def _settle(tx: Transaction, batches: Sequence[Sequence[Settlement]]) -> Sequence[Sequence[bool]]:
    return _by_batch(batches, settle_rows(tx, list(chain.from_iterable(batches))))


def _count(tx: Transaction, batches: Sequence[Sequence[Tally]]) -> Sequence[Sequence[bool]]:
    return _by_batch(batches, count_tallies(tx, list(chain.from_iterable(batches))))


def _by_batch(batches: Sequence[Sequence[object]], answers: Sequence[bool]) -> Sequence[Sequence[bool]]:
    left = iter(answers)
    return [[next(left) for _ in batch] for batch in batches]


def _run(tx: Transaction, works: Sequence[Callable[[Transaction], Any]]) -> Sequence[Any]:
    return [work(tx) for work in works]


PUT: Final[Command[NewRow, bool]] = Command(put_rows, _weigh_rows, adds=True)
CLAIM: Final[Command[tuple[Claim, float], Known | None]] = Command(claim_rows, _rows, adds=True)
"""Each claim with the seconds for which it is to hold."""
CONFIRM: Final[Command[Confirmation, None]] = Command(_confirm, _rows)
SETTLE: Final[Command[Sequence[Settlement], Sequence[bool]]] = Command(_settle, _weigh_settlements)
COUNT: Final[Command[Sequence[Tally], Sequence[bool]]] = Command(_count, _weigh_tallies, last=True)
RUN: Final[Command[Callable[[Transaction], Any], Any]] = Command(_run, _rows)
"""Any other statement: a function, which is run in the group's transaction."""
