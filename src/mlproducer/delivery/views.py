"""Queues and audits as plain data: HTTP and `--json` give the same names. Times are Unix seconds, sizes bytes."""

from __future__ import annotations

from typing import Any

from msgspec.structs import asdict

from mlproducer.envelope.encode import describe
from mlproducer.rows import Audit, DeadEntry, DeadLetter, History, SpoolRow, WaitingEntry
from mlproducer.task import Envelope


def waiting_view(row: WaitingEntry | SpoolRow) -> dict[str, Any]:
    """A task that waits, as lists show it: no content."""
    task = row.envelope if isinstance(row, SpoolRow) else row
    return {
        "task_id": task.task_id,
        "task_type": task.task_type,
        "queue": task.routing_key,
        "size": task.size,
        "accepted_at": row.accepted_at,
        "due_at": row.due_at,
        "attempts": row.attempts,
        "cause": row.cause,
        "text": row.text,
    }


def dead_view(letter: DeadEntry | DeadLetter) -> dict[str, Any]:
    """A dead letter, as lists show it: no content."""
    task = letter.envelope if isinstance(letter, DeadLetter) else letter
    return {
        "task_id": task.task_id,
        "task_type": task.task_type,
        "queue": task.routing_key,
        "size": task.size,
        "accepted_at": letter.accepted_at,
        "died_at": letter.died_at,
        "attempts": letter.attempts,
        "reason": letter.reason,
        "code": letter.code,
        "text": letter.text,
    }


def waiting_whole(row: SpoolRow) -> dict[str, Any]:
    """A task that waits, with its history, and its content as the worker would see it."""
    return {**waiting_view(row), **_whole(row.envelope, row.history)}


def dead_whole(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter, with its history, and its content as the worker would see it."""
    return {**dead_view(letter), **_whole(letter.envelope, letter.history)}


def _whole(task: Envelope, history: History) -> dict[str, Any]:
    return {
        "expires_at": task.expires_at,
        "history": [asdict(each) for each in history],
        "message": describe(task),
    }


def audit_view(audit: Audit) -> dict[str, Any]:
    return {**asdict(audit), "count": len(audit.task_ids)}
