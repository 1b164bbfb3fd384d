"""Where a task is, from what the spool knows of its id."""

from __future__ import annotations

from typing import assert_never

from mlproducer.errors import NotFound
from mlproducer.ports import Spool
from mlproducer.rows import DeadLetter, Known, Record, SpoolRow
from mlproducer.task import Receipt, TaskState


async def dead_letter(spool: Spool, task_id: str) -> DeadLetter:
    """One dead letter, whole. Raises: NotFound, saying where the task is instead, if it is anywhere."""
    found = await spool.find(task_id)
    if isinstance(found, DeadLetter):
        return found
    raise NotFound(f"no dead letter {task_id}{_elsewhere(found)}")


async def waiting_task(spool: Spool, task_id: str) -> SpoolRow:
    """One task of the retry queue, whole. Raises: as `dead_letter`."""
    found = await spool.find(task_id)
    if isinstance(found, SpoolRow):
        return found
    raise NotFound(f"no task {task_id} waits in the retry queue{_elsewhere(found)}")


def _elsewhere(found: Known | None) -> str:
    match found:
        case SpoolRow():
            return ": it waits in the retry queue"
        case DeadLetter():
            return ": it is in the dead letter queue"
        case Record(confirmed_at=None):
            return ": it is being published now"
        case Record():
            return ": it is confirmed"
        case None:
            return ""
        case _:
            assert_never(found)


def receipt_of(found: Known | None, *, now: float) -> Receipt | None:
    """What the spool knows of a task, as a receipt. None also for a claim that is over at `now`: whoever held it went
    without giving a receipt, so nobody was promised anything.
    """
    match found:
        case SpoolRow(envelope=task):
            why, due_at = found.text or found.cause, found.due_at
            spooled = TaskState.SPOOLED
            return Receipt(task.task_id, task.task_type, spooled, found.accepted_at, None, found.attempts, why, due_at)
        case DeadLetter(envelope=task):
            state = TaskState.EXPIRED if found.reason == "expired" else TaskState.DEAD
            why = found.text or found.reason
            return Receipt(task.task_id, task.task_type, state, found.accepted_at, None, found.attempts, why)
        case Record(confirmed_at=None, held_until=until):
            if until is None or until <= now:
                return None
            why = "another call or instance is publishing it now"
            return Receipt(found.task_id, found.task_type, TaskState.IN_FLIGHT, found.accepted_at, reason=why)
        case Record():
            state, at = TaskState.CONFIRMED, found.confirmed_at
            return Receipt(found.task_id, found.task_type, state, found.accepted_at, at, found.attempts)
        case None:
            return None
        case _:
            assert_never(found)
