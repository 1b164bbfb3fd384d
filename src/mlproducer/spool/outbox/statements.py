"""What the outbox asks of a database, as SQLAlchemy Core; `text_for` makes a driver's own text of it.

Each statement answers with rows, of numbers and truth values only, so that no row or text factory of the user's
connection changes what we read.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    Column,
    ColumnElement,
    Compiled,
    Dialect,
    Double,
    Executable,
    Insert,
    Select,
    bindparam,
    delete,
    false,
    func,
    literal_column,
    select,
    text,
    union_all,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.compiler import SQLCompiler

from mlproducer.spool.schema import CHANNEL, clock, dead_letters, records, waiting
from mlproducer.spool.store_time import SERVER_NOW


class Place(IntEnum):
    """Where an id is, in the order of what counts: where it waits or is dead, its record means nothing."""

    WAITING = 1
    DEAD = 2
    CONFIRMED = 3
    CLAIMED = 4
    """A producer is publishing it at this moment, and has promised nothing yet."""


def _in(place: Place, same: Any, *where: Any) -> Select[Any]:  # noqa: ANN401  # clauses
    return select(literal_column(str(place.value)).label("place"), same.label("same")).where(*where)


_ONE: Final[ColumnElement[int]] = literal_column("1")
_ID: Final = bindparam("id_", type_=waiting.c.task_id.type)
_DIGEST: Final = bindparam("digest_", type_=records.c.digest.type)
_ZERO: Final[ColumnElement[float]] = literal_column("0.0", Double)
_SAME_CONTENT: Final = (waiting.c.routing_key == bindparam("key_")) & (waiting.c.body == bindparam("body_"))
_SAME_RECORD: Final = records.c.digest == _DIGEST
_NOW, _MONOTONIC, _ETA = (bindparam(name, type_=_ZERO.type) for name in ("now_", "monotonic_", "eta_"))


def _of_file(column: Column[Any], without: ColumnElement[float]) -> ColumnElement[float]:
    return func.coalesce(select(column).scalar_subquery(), without)


_FILE_NOW: Final = func.max(
    _MONOTONIC + _of_file(clock.c.origin, _NOW - _MONOTONIC),
    _of_file(clock.c.mark, _ZERO),  # the machine was started again, and no producer yet
)
_FILE_DUE: Final = _FILE_NOW + func.max(func.coalesce(_ETA - _NOW, _ZERO), _ZERO)
_SERVER_DUE: Final = func.greatest(SERVER_NOW, _ETA)
"""When the store's own clock says that it is, and when a task is due by it: see `spool.file_time`, `store_time`."""


def _elsewhere(now: ColumnElement[float]) -> tuple[Select[Any], ...]:
    ours = records.c.task_id == _ID
    return (
        _in(Place.DEAD, false(), dead_letters.c.task_id == _ID),
        _in(Place.CONFIRMED, _SAME_RECORD, ours, records.c.confirmed_at.is_not(None)),
        _in(Place.CLAIMED, _SAME_RECORD, ours, records.c.confirmed_at.is_(None), records.c.held_until > now),
    )


def _find(now: ColumnElement[float]) -> Executable:
    return union_all(_in(Place.WAITING, _SAME_CONTENT, waiting.c.task_id == _ID), *_elsewhere(now))


TAKE_BACK: Final = delete(waiting).where(waiting.c.task_id == _ID).returning(_ONE)

_OURS: Final = ", ".join(f"'{column.name}'" for column in waiting.columns)
_COUNT: Final = len(waiting.columns)


@dataclass(frozen=True, slots=True)
class Statements:
    """Of one kind of database."""

    fits: Executable
    """Three truth values: our tables are there; they have our columns and require no other; we may use them."""
    asks_first: bool
    """Any error ends the user's transaction, so `fits` is asked before a statement that could fail."""
    insert: Executable
    """Every column of `waiting`. One row if it was inserted; none if the id waits."""
    insert_and_notify: Executable
    """The same; on commit the drains are told."""
    find: Executable
    """Where the id is, and whether with the same content."""
    find_elsewhere: Executable
    """The same, but for where it waits."""


def _insert(new: Insert, due: Any, answer: Any, **more: Any) -> Executable:  # noqa: ANN401  # clauses
    # Each by a name of its own: that of its column would be taken for a plain value.
    given = {column.name: bindparam(f"{column.name}_", type_=column.type) for column in waiting.columns}
    new = new.values({**given, "due_at": due, "free_at": due, "first_due_at": due, **more})
    return new.on_conflict_do_nothing(index_elements=["task_id"]).returning(answer)  # type: ignore[attr-defined,no-any-return]  # both dialects' own Insert has it


# Not which version the tables have: a newer producer may have brought them up to date while older applications run on.
# What counts is whether this INSERT can be done.
_POSTGRESQL_FITS: Final = text(f"""
    SELECT
        to_regclass('{waiting.name}') IS NOT NULL AND to_regclass('{dead_letters.name}') IS NOT NULL
            AND to_regclass('{records.name}') IS NOT NULL,
        (SELECT count(*) FILTER (WHERE attname IN ({_OURS})) = {_COUNT} AND count(*) FILTER (
                WHERE attname NOT IN ({_OURS}) AND attnotnull AND NOT atthasdef AND attidentity = '') = 0
            FROM pg_attribute WHERE attrelid = to_regclass('{waiting.name}') AND attnum > 0 AND NOT attisdropped),
        coalesce(
            has_table_privilege(to_regclass('{waiting.name}'), 'SELECT')
            AND has_table_privilege(to_regclass('{waiting.name}'), 'INSERT')
            AND has_table_privilege(to_regclass('{waiting.name}'), 'DELETE')
            AND has_table_privilege(to_regclass('{dead_letters.name}'), 'SELECT')
            AND has_table_privilege(to_regclass('{records.name}'), 'SELECT'), false)
""")  # noqa: S608  # our own names
_SQLITE_FITS: Final = text(f"""
    SELECT
        (SELECT count(*) FROM sqlite_master
            WHERE type = 'table'
                AND name IN ('{waiting.name}', '{dead_letters.name}', '{records.name}', '{clock.name}')) = 4,
        (SELECT sum(name IN ({_OURS})) = {_COUNT}
                AND sum(name NOT IN ({_OURS}) AND "notnull" AND dflt_value IS NULL) = 0
            FROM pragma_table_info('{waiting.name}')),
        1
""")  # noqa: S608  # our own names

POSTGRESQL: Final = Statements(
    fits=_POSTGRESQL_FITS,
    asks_first=True,
    insert=_insert(postgresql.insert(waiting), _SERVER_DUE, _ONE, accepted_at=SERVER_NOW),
    insert_and_notify=_insert(
        postgresql.insert(waiting),
        _SERVER_DUE,
        func.pg_notify(literal_column(f"'{CHANNEL}'"), literal_column("''")),
        accepted_at=SERVER_NOW,
    ),
    find=_find(SERVER_NOW),
    find_elsewhere=union_all(*_elsewhere(SERVER_NOW)),
)
_SQLITE_INSERT: Final = _insert(sqlite.insert(waiting), _FILE_DUE, _ONE)
# A failed statement undoes itself alone here. And to read before the first write would be wrong: the transaction then
# stands on a snapshot, and if anybody commits before our INSERT, that is refused as busy without any wait.
SQLITE: Final = Statements(
    fits=_SQLITE_FITS,
    asks_first=False,
    insert=_SQLITE_INSERT,
    insert_and_notify=_SQLITE_INSERT,
    find=_find(_FILE_NOW),
    find_elsewhere=union_all(*_elsewhere(_FILE_NOW)),
)


@cache
def compiled(statement: Executable, dialect: Dialect) -> SQLCompiler:
    """For a driver without SQLAlchemy: `string` is its text, `positiontup` the order of its parameters."""
    found: Compiled = statement.compile(dialect=dialect)  # type: ignore[attr-defined]  # every statement has it
    assert isinstance(found, SQLCompiler)  # noqa: S101  # no DDL here
    return found


def text_for(statement: Executable, dialect: Dialect) -> str:
    return compiled(statement, dialect).string


def in_order(statement: Executable, dialect: Dialect, parameters: dict[str, object]) -> list[object]:
    """The parameters for a driver that counts them."""
    found = compiled(statement, dialect)
    given = found.construct_params(parameters)
    return [given[name] for name in found.positiontup or ()]
