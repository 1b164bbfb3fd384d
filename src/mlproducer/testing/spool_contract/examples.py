"""What a store is given, and how it is found again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import structs

from mlproducer.core.digest import content_digest
from mlproducer.ports import Spool
from mlproducer.rows import (
    Attempted,
    Audit,
    Bury,
    Claim,
    DeadEntry,
    DeadLetter,
    Done,
    Lease,
    NewRow,
    Record,
    SpoolRow,
    Verdict,
    WaitingEntry,
)
from mlproducer.task import Envelope

MakeSpool = Callable[[], Spool]
SetHost = Callable[[float], None]
NOW = 1_800_000_000.0
DONE = Done(NOW + 1, keep=100)
HISTORY = (Attempted(NOW - 4, "returned", 312, "NO_ROUTE ✓"), Attempted(NOW - 2, "nacked"))


class StoreClock(Protocol):
    """What decides at the store whether a moment has come."""

    def advance(self, seconds: float) -> None: ...


def row(task_id: str, *, delay: float = 0.0, size: int = 10, eta: float | None = None, **given: object) -> NewRow:
    """A row with all there is to remember; `given` overrides fields of `NewRow`."""
    envelope = Envelope(task_id, "embed_vectors", "ml.embed", b"\x00\xff" * 5, b"x" * size, NOW + 60, eta)
    fields: dict[str, object] = {"attempts": 1, "cause": "nacked", "text": "naïve ✓", "alone": True}
    fields |= {"history": HISTORY, **given}
    return NewRow(envelope, NOW - 5, delay, **fields)  # type: ignore[arg-type]  # the caller's own fields


def waits(new: NewRow, *, at: float = NOW) -> SpoolRow:
    """The row as it is found when it was put at `at`."""
    return new.waiting(new.first_due(at))


def is_as_put(found: object, new: NewRow) -> bool:
    """Whether it is that row, due whenever it is: where the store's clock runs."""
    return isinstance(found, SpoolRow) and found == structs.replace(waits(new), due_at=found.due_at)


def is_confirmed(found: object, task_id: str, **given: object) -> bool:
    """Whether it is `confirmed(task_id, **given)`, kept until whenever."""
    return isinstance(found, Record) and found == confirmed(task_id, keep_until=found.keep_until, **given)


def entry(of: SpoolRow) -> WaitingEntry:
    """The row as lists show it."""
    task = of.envelope
    shown = (task.task_id, task.task_type, task.routing_key, task.size)
    return WaitingEntry(*shown, of.accepted_at, of.due_at, of.attempts, of.cause, of.text, of.history)


def dead_entry(of: DeadLetter) -> DeadEntry:
    """The dead letter as lists show it."""
    task = of.envelope
    shown = (task.task_id, task.task_type, task.routing_key, task.size)
    return DeadEntry(*shown, of.accepted_at, of.died_at, of.attempts, of.reason, of.code, of.text, of.history)


def claim(task_id: str, *, token: str = "me", **given: object) -> Claim:
    """A claim on the id of `row(task_id)`; `given` overrides fields of `Claim`."""
    fields: dict[str, object] = {"digest": content_digest(row(task_id).envelope), "accepted_at": NOW - 5, **given}
    return Claim(task_id, "embed_vectors", token=token, **fields)  # type: ignore[arg-type]  # as above


def held(of: Claim, *, until: float = NOW + 10) -> Record:
    """The claim as it is found."""
    return Record(of.task_id, of.task_type, of.digest, of.accepted_at, until, held_until=until, token=of.token)


def confirmed(task_id: str, **given: object) -> Record:
    """The record of a task that `confirm` said was confirmed; `given` overrides fields of `Record`."""
    of = claim(task_id)
    fields: dict[str, object] = {"digest": of.digest, "accepted_at": of.accepted_at}
    fields |= {"keep_until": NOW + 100, "confirmed_at": NOW + 1, **given}
    return Record(task_id, of.task_type, **fields)  # type: ignore[arg-type]  # as above


async def confirm(spool: Spool, task_id: str, *, at: float = NOW + 1) -> None:
    await spool.confirm(claim(task_id), confirmed_at=at, keep=100)


def audit(*task_ids: str, at: float = NOW + 7, action: str = "replay") -> Audit:
    return Audit(at, "ada", action, "by id ✓", task_ids)


async def settle(spool: Spool, lease: Lease, verdict: Verdict) -> bool:
    (held,) = await spool.settle([(lease, verdict)])
    return held


async def buried(spool: Spool, task_id: str, **given: object) -> DeadLetter:
    died: dict[str, object] = {
        "died_at": NOW,
        "attempts": 3,
        "reason": "nacked",
        "code": 312,
        "text": "why",
        "history": HISTORY,
        **given,
    }
    await spool.put(row(task_id))
    (lease,) = await spool.lease(1, hold=60)
    assert await settle(spool, lease, Bury(**died))  # type: ignore[arg-type]  # the caller's own fields
    return DeadLetter(lease.row.envelope, lease.row.accepted_at, **died)  # type: ignore[arg-type]  # as above
