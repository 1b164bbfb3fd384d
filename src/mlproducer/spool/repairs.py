"""What people do to dead letters, in one transaction of the caller's: replay or remove them, and say who did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import ColumnElement, delete, insert, literal, select
from sqlalchemy.dialects import postgresql, sqlite

from mlproducer.rows import Audit
from mlproducer.spool.bulk import among, chunks, delete_ids, is_postgresql
from mlproducer.spool.columns import audit_columns
from mlproducer.spool.schema import audits, dead_letters, waiting
from mlproducer.spool.transaction import Transaction

_KEPT: Final = (
    *("task_id", "task_type", "routing_key", "properties", "body", "size", "expires_at", "eta", "accepted_at"),
    *("history", "tenant"),
)

_DUE: Final = ("due_at", "free_at", "first_due_at")


def replay_rows(tx: Transaction, audit: Audit) -> int:
    """Moved inside the database: the bodies of many letters need not pass through this process."""

    def move(chunk: list[str]) -> set[str]:
        now = tx.time.now()
        due = now if isinstance(now, ColumnElement) else literal(now)
        values = {"attempts": 0, "cause": "replayed", "text": "", "alone": 0, "counted": 1}
        chosen = select(
            *(dead_letters.c[name] for name in _KEPT),
            *(due for _ in _DUE),
            *(literal(value) for value in values.values()),
        ).where(among(tx.connection, dead_letters.c.task_id, chunk))
        columns = (*_KEPT, *_DUE, *values)
        new = postgresql.insert(waiting) if is_postgresql(tx.connection) else sqlite.insert(waiting)
        # An id that waits as well (the outbox does not ask whether it is dead) stays dead until that one is done.
        moving = new.from_select(columns, chosen.order_by(dead_letters.c.task_id)).on_conflict_do_nothing()
        moved = tx.connection.execute(moving.returning(waiting.c.task_id, waiting.c.size))
        sizes: dict[str, int] = {found[0]: found[1] for found in moved}
        delete_ids(tx.connection, dead_letters, sizes)
        tx.count(tasks=len(sizes), size=sum(sizes.values()), dead=-len(sizes))
        tx.added = tx.added or bool(sizes)
        return set(sizes)

    return _audited(tx, audit, move)


def purge_rows(tx: Transaction, audit: Audit) -> int:
    def remove(chunk: list[str]) -> set[str]:
        chosen = delete(dead_letters).where(among(tx.connection, dead_letters.c.task_id, chunk))
        found = set(tx.connection.execute(chosen.returning(dead_letters.c.task_id)).scalars())
        tx.count(dead=-len(found))
        return found

    return _audited(tx, audit, remove)


def _audited(tx: Transaction, audit: Audit, act: Callable[[list[str]], set[str]]) -> int:
    """Do it to the ids, chunk by chunk, and note in the same transaction which were found."""
    asked = dict.fromkeys(audit.task_ids)
    found: set[str] = set()
    for chunk in chunks(asked):
        found |= act(chunk)
    if found:
        in_order = tuple(task_id for task_id in asked if task_id in found)
        tx.connection.execute(insert(audits).values(audit_columns(audit, in_order)))
    return len(found)
