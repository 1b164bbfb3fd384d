"""What the spool does to its tables, in one transaction of the caller's. Plain functions over a connection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeVar

from sqlalchemy import Connection, Select, bindparam, delete, func, insert, select, update
from sqlalchemy.engine import RowMapping

from mlproducer.ports import Again, Bury, DeadFilter, DeadLetter, Done, Lease, SpoolRow, SpoolSize, Verdict
from mlproducer.spool.schema import (
    REPLAYED,
    dead_columns,
    dead_letters,
    letter_from,
    replayed,
    row_from,
    storable,
    totals,
    waiting,
    waiting_columns,
)

T = TypeVar("T")

_CHUNK: Final = 500
"""Ids in one IN list: well under SQLite's limit on variables, and few distinct statements to compile."""

_DELETE = delete(waiting).where(waiting.c.task_id == bindparam("id_"))
_RELEASE = (
    update(waiting)
    .where(waiting.c.task_id == bindparam("id_"))
    .values(
        due_at=bindparam("due_at_"),
        free_at=bindparam("due_at_"),
        token=None,
        attempts=bindparam("attempts_"),
        cause=bindparam("cause_"),
        text=bindparam("text_"),
        alone=bindparam("alone_"),
    )
)
_HOLD = (
    update(waiting)
    .where(waiting.c.task_id == bindparam("id_"))
    .values(free_at=bindparam("until_"), token=bindparam("token_"))
)


def put_rows(connection: Connection, rows: Sequence[SpoolRow]) -> list[bool]:
    """Insert those whose id is not there yet, waiting or dead."""
    there = {found["task_id"] for found in _by_id(connection, select(waiting.c.task_id), waiting.c.task_id, _ids(rows))}
    there |= {
        found["task_id"]
        for found in _by_id(connection, select(dead_letters.c.task_id), dead_letters.c.task_id, _ids(rows))
    }
    stored: list[bool] = []
    fresh: list[dict[str, object]] = []
    size = 0
    for row in rows:
        new = row.envelope.task_id not in there
        stored.append(new)
        if new:
            there.add(row.envelope.task_id)
            fresh.append(waiting_columns(row))
            size += row.envelope.size
    if fresh:
        connection.execute(insert(waiting), fresh)
        _count(connection, tasks=len(fresh), size=size)
    return stored


def lease_rows(connection: Connection, limit: int, now: float, until: float, token: str) -> list[Lease]:
    """By when a row became free, from one index; a row whose lease ended queues up at that end, behind its elders."""
    found = (
        connection.execute(select(waiting).where(waiting.c.free_at <= now).order_by(waiting.c.free_at).limit(limit))
        .mappings()
        .all()
    )
    if found:
        connection.execute(_HOLD, [{"id_": each["task_id"], "until_": until, "token_": token} for each in found])
    return sorted((Lease(row_from(each), token) for each in found), key=lambda lease: lease.row.due_at)


def settle_rows(connection: Connection, settlements: Sequence[tuple[Lease, Verdict]]) -> list[bool]:
    """Apply the verdicts of those whose lease still holds."""
    columns = select(waiting.c.task_id, waiting.c.token)
    ids = [lease.row.envelope.task_id for lease, _ in settlements]
    tokens = {found["task_id"]: found["token"] for found in _by_id(connection, columns, waiting.c.task_id, ids)}
    held: list[bool] = []
    gone: list[SpoolRow] = []
    released: list[dict[str, object]] = []
    letters: list[DeadLetter] = []
    for lease, verdict in settlements:
        row = lease.row
        task_id = row.envelope.task_id
        held.append(tokens.get(task_id) == lease.token)
        if not held[-1]:
            continue
        tokens[task_id] = None  # a lease settles once
        match verdict:
            case Done():
                gone.append(row)
            case Again(due_at=due_at, attempts=attempts, cause=cause, text=text, alone=alone):
                values = {"due_at_": due_at, "attempts_": attempts, "cause_": cause, "text_": storable(text)}
                released.append({"id_": task_id, "alone_": int(alone), **values})
            case Bury(died_at=died_at, attempts=attempts, reason=reason, code=code, text=text):
                gone.append(row)
                letters.append(DeadLetter(row.envelope, row.accepted_at, died_at, attempts, reason, code, text))
    _remove(connection, gone)
    if released:
        connection.execute(_RELEASE, released)
    if letters:
        connection.execute(insert(dead_letters), [dead_columns(letter) for letter in letters])
        _count(connection, dead=len(letters))
    return held


def release_all(connection: Connection) -> None:
    """End every lease: their owner is dead."""
    connection.execute(update(waiting).where(waiting.c.token.is_not(None)).values(free_at=waiting.c.due_at, token=None))


def replay_rows(connection: Connection, task_ids: Sequence[str], now: float) -> int:
    """Moved inside the database: the bodies of many letters need not pass through this process."""
    moved = 0
    for chunk in _chunks(dict.fromkeys(task_ids)):
        chosen = dead_letters.c.task_id.in_(chunk)
        tasks, size = connection.execute(select(func.count(), func.sum(dead_letters.c.size)).where(chosen)).one()
        if tasks:
            connection.execute(insert(waiting).from_select(REPLAYED, replayed(now).where(chosen)))
            connection.execute(delete(dead_letters).where(chosen))
            _count(connection, tasks=tasks, size=size, dead=-tasks)
            moved += tasks
    return moved


def purge_rows(connection: Connection, task_ids: Sequence[str]) -> int:
    removed = 0
    for chunk in _chunks(dict.fromkeys(task_ids)):
        removed += connection.execute(delete(dead_letters).where(dead_letters.c.task_id.in_(chunk))).rowcount
    if removed:
        _count(connection, dead=-removed)
    return removed


def measure_rows(connection: Connection) -> SpoolSize:
    sums = connection.execute(select(totals)).mappings().one()
    oldest = connection.execute(select(func.min(waiting.c.accepted_at))).scalar()
    free = connection.execute(select(func.min(waiting.c.free_at))).scalar()
    return SpoolSize(sums["tasks"], sums["bytes"], oldest, sums["dead"], free)


def find_row(connection: Connection, task_id: str) -> SpoolRow | DeadLetter | None:
    found = connection.execute(select(waiting).where(waiting.c.task_id == task_id)).mappings().first()
    if found is not None:
        return row_from(found)
    for letter in _dead_by_id(connection, [task_id]):
        return letter_from(letter)
    return None


def waiting_rows(connection: Connection, limit: int, offset: int) -> list[SpoolRow]:
    query = select(waiting).order_by(waiting.c.due_at, waiting.c.task_id).limit(limit).offset(offset)
    return [row_from(found) for found in connection.execute(query).mappings()]


def dead_rows(connection: Connection, where: DeadFilter, limit: int, offset: int) -> list[DeadLetter]:
    query = select(dead_letters).order_by(dead_letters.c.died_at.desc(), dead_letters.c.task_id)
    if where.task_type is not None:
        query = query.where(dead_letters.c.task_type == where.task_type)
    if where.reason is not None:
        query = query.where(dead_letters.c.reason == where.reason)
    if where.older_than is not None:
        query = query.where(dead_letters.c.died_at < where.older_than)
    if where.text is not None:
        query = query.where(dead_letters.c.text.icontains(where.text, autoescape=True))
    return [letter_from(found) for found in connection.execute(query.limit(limit).offset(offset)).mappings()]


def _ids(rows: Iterable[SpoolRow]) -> list[str]:
    return [row.envelope.task_id for row in rows]


def _remove(connection: Connection, rows: Sequence[SpoolRow]) -> None:
    if rows:
        connection.execute(_DELETE, [{"id_": row.envelope.task_id} for row in rows])
        _count(connection, tasks=-len(rows), size=-sum(row.envelope.size for row in rows))


def _count(connection: Connection, *, tasks: int = 0, size: int = 0, dead: int = 0) -> None:
    connection.execute(
        update(totals).values(tasks=totals.c.tasks + tasks, bytes=totals.c.bytes + size, dead=totals.c.dead + dead)
    )


def _dead_by_id(connection: Connection, task_ids: Sequence[str]) -> Iterator[RowMapping]:
    return _by_id(connection, select(dead_letters), dead_letters.c.task_id, list(dict.fromkeys(task_ids)))


def _by_id(connection: Connection, query: Select[T], column: object, task_ids: Sequence[str]) -> Iterator[RowMapping]:
    for chunk in _chunks(task_ids):
        yield from connection.execute(query.where(column.in_(chunk))).mappings()  # type: ignore[attr-defined]  # a Column


def _chunks(task_ids: Iterable[str]) -> Iterator[list[str]]:
    ids = list(task_ids)
    for at in range(0, len(ids), _CHUNK):
        yield ids[at : at + _CHUNK]
