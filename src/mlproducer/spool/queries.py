"""What the spool reads. Plain functions over a connection; lists leave the content where it is.

Where an id waits or is dead, its record means nothing: see `statements`.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, Select, func, select, text

from mlproducer.rows import Audit, DeadEntry, DeadFilter, Known, SpoolSize, WaitingEntry
from mlproducer.spool.bulk import is_postgresql
from mlproducer.spool.columns import (
    DEAD_SHOWN,
    WAITING_SHOWN,
    audit_from,
    dead_entry,
    letter_from,
    record_from,
    row_from,
    waiting_entry,
)
from mlproducer.spool.schema import audits, dead_letters, records, totals, waiting
from mlproducer.spool.store_time import SERVER_NOW, StoreTime

_PLACES: Final = ((waiting, row_from), (dead_letters, letter_from), (records, record_from))
_FIRST_DUE: Final = select(func.min(func.coalesce(waiting.c.first_due_at, waiting.c.accepted_at)))
_NEXT_FREE: Final = select(func.min(waiting.c.free_at))
_SUMS: Final = select(
    func.coalesce(func.sum(totals.c.tasks), 0),
    func.coalesce(func.sum(totals.c.bytes), 0),
    func.coalesce(func.sum(totals.c.dead), 0),
)
_SUMS_AT: Final = _SUMS.add_columns(SERVER_NOW)
# The literal, and not a parameter: else no planner can tell that the partial index has the answer.
_UNCOUNTED: Final = (
    select(func.count(), func.coalesce(func.sum(waiting.c.size), 0)).select_from(waiting).where(text("counted = 0"))
)


def measure_rows(connection: Connection, time: StoreTime) -> SpoolSize:
    tasks, size, dead, *server = connection.execute(_SUMS_AT if is_postgresql(connection) else _SUMS).one()
    more_tasks, more_size = connection.execute(_UNCOUNTED).one()
    first_due = connection.execute(_FIRST_DUE).scalar()
    free = connection.execute(_NEXT_FREE).scalar()
    # Sums of big integers come as decimals from PostgreSQL.
    first_due, free = (None if moment is None else time.told(moment) for moment in (first_due, free))
    at = next(iter(server), None)
    return SpoolSize(int(tasks + more_tasks), int(size + more_size), first_due, int(dead), free, at=at)


def find_row(connection: Connection, time: StoreTime, task_id: str) -> Known | None:
    for table, value_from in _PLACES:
        found = connection.execute(select(table).where(table.c.task_id == task_id)).mappings().first()
        if found is not None:
            return value_from(found, time)
    return None


def waiting_rows(connection: Connection, time: StoreTime, limit: int, offset: int) -> list[WaitingEntry]:
    query = select(*(waiting.c[name] for name in WAITING_SHOWN)).order_by(waiting.c.due_at, waiting.c.task_id)
    return [waiting_entry(found, time) for found in connection.execute(query.limit(limit).offset(offset)).mappings()]


def dead_rows(connection: Connection, where: DeadFilter, limit: int, offset: int) -> list[DeadEntry]:
    query = _matching(select(*(dead_letters.c[name] for name in DEAD_SHOWN)), where)
    query = query.order_by(dead_letters.c.died_at.desc(), dead_letters.c.task_id).limit(limit).offset(offset)
    return [dead_entry(found) for found in connection.execute(query).mappings()]


def count_dead_rows(connection: Connection, where: DeadFilter) -> int:
    if where == DeadFilter():
        return int(connection.execute(_SUMS).one()[2])
    return int(connection.execute(_matching(select(func.count()).select_from(dead_letters), where)).scalar_one())


def audit_rows(connection: Connection, limit: int, offset: int) -> list[Audit]:
    query = select(audits).order_by(audits.c.id.desc()).limit(limit).offset(offset)
    return [audit_from(found) for found in connection.execute(query).mappings()]


def _matching(query: Select[Any], where: DeadFilter) -> Select[Any]:
    if where.task_type is not None:
        query = query.where(dead_letters.c.task_type == where.task_type)
    if where.reason is not None:
        query = query.where(dead_letters.c.reason == where.reason)
    if where.older_than is not None:
        query = query.where(dead_letters.c.died_at < where.older_than)
    if where.newer_than is not None:
        query = query.where(dead_letters.c.died_at >= where.newer_than)
    if where.text is not None:
        query = query.where(dead_letters.c.text.icontains(where.text, autoescape=True))
    return query
