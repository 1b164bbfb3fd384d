"""Many rows in one statement: the few places where what is quick differs between SQLite and PostgreSQL.

Rows come with what `StoreTime.after` and `due` gave for the columns that are `SPAN`.

On PostgreSQL each execution is a message over the network, so the rows travel as one array a column, and the text of a
statement is the same for any number of them. On SQLite an execution is cheap, but each one lets go of the interpreter's
lock some three times, and an event loop that has work keeps the lock for up to 5 ms each time. So there too it is one
statement for many rows, whose text has one of eleven lengths: there is nothing to compile, and nothing waits per row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from operator import itemgetter
from typing import Any, Final, TypeVar, cast

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    ColumnElement,
    CompoundSelect,
    Connection,
    CursorResult,
    Delete,
    Double,
    Integer,
    LargeBinary,
    Select,
    Table,
    Text,
    any_,
    bindparam,
    delete,
    func,
    select,
    union_all,
)

from mlproducer.spool.schema import records, waiting
from mlproducer.spool.store_time import SERVER_TIME

Values = tuple[object, ...]
"""A row, in the order of the table's columns."""
_Statement = TypeVar("_Statement", Select[Any], Delete)

_LARGEST_INSERT: Final = 1_024
"""Rows in one INSERT of SQLite, which takes 32,766 values in a statement: a power of two times our widest table."""
_LARGEST_INSERT_BYTES: Final = 1024 * 1024
"""Of content in one INSERT of more than one row."""
_CHUNK: Final = 2_000
"""Ids in one statement: a bound on what a replay of all dead letters holds at once."""
_IDS: Final = "ids_"
"""The parameter of statements that are made once."""
_ARRAYS: Final[tuple[tuple[type[object], str], ...]] = (
    (Text, "text[]"),
    (LargeBinary, "bytea[]"),
    (BigInteger, "bigint[]"),
    (Integer, "integer[]"),
    (Double, "double precision[]"),
)

_UNCONFIRMED: Final = (
    "ON CONFLICT (task_id) DO UPDATE SET "
    + ", ".join(f"{column.name} = excluded.{column.name}" for column in records.c if column.name != "task_id")
    + " WHERE mlproducer_records.confirmed_at IS NULL"
)

_LATEST: Final = (
    "SELECT json_group_array(task_id) FROM (SELECT task_id FROM mlproducer_waiting ORDER BY rowid DESC LIMIT ?)"
)


def is_postgresql(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"


def insert_new(connection: Connection, table: Table, rows: Sequence[Values]) -> set[str]:
    """Insert the rows whose id, their first value, is not in `table` yet; the ids that went in. The ids given are
    distinct.
    """
    if not rows:
        return set()
    if is_postgresql(connection):
        # Another instance may be inserting the same id. Then this waits until that one committed or rolled back.
        key = _key(table)[0]
        statement = f"{_from_arrays(table)} ON CONFLICT ({key}) DO NOTHING RETURNING {key}"
        return set(connection.exec_driver_sql(statement, _arrays(table, rows)).scalars())
    # The transaction is exclusive: what is not there now will not be there in a moment.
    there = ids_in(connection, (str(row[0]) for row in rows), table)
    fresh = [row for row in rows if row[0] not in there]
    _insert_all(connection, table, fresh)
    return {str(row[0]) for row in fresh}


def put_unknown(connection: Connection, rows: Sequence[Values], *elsewhere: Table) -> set[str]:
    """On SQLite: `insert_new` into `waiting` of those whose id none of the other tables has, without a look before."""
    inserted = _insert_all(connection, waiting, rows, _if_unknown(*elsewhere))
    if inserted == len(rows):
        return {str(row[0]) for row in rows}
    # New rows have the highest row ids. No RETURNING: each row of an answer is a wait of its own.
    return set(json.loads(connection.exec_driver_sql(_LATEST, (inserted,)).scalar_one()))


def add_up(connection: Connection, table: Table, rows: Sequence[Values]) -> None:
    """Add each row's `total` to that of the row with its key, or insert it. The keys given are distinct."""
    if not rows:
        return
    add = f"ON CONFLICT ({', '.join(_key(table))}) DO UPDATE SET total = {table.name}.total + excluded.total"
    if is_postgresql(connection):
        connection.exec_driver_sql(f"{_from_arrays(table)} {add}", _arrays(table, rows))
        return
    _insert_all(connection, table, rows, add)


def remember(connection: Connection, rows: Sequence[Values]) -> None:
    """Insert records of confirmed tasks, or let them take the place of claims. The ids given are distinct."""
    if not rows:
        return
    if is_postgresql(connection):
        connection.exec_driver_sql(f"{_from_arrays(records)} {_UNCONFIRMED}", _arrays(records, rows))
        return
    _insert_all(connection, records, rows, _UNCONFIRMED)


def among(connection: Connection, column: Column[Any], ids: Sequence[str]) -> ColumnElement[bool]:
    """`column` is one of `ids`, which are one of `chunks`. Where a statement is run all the time, see `run_for`."""
    return _among(column, _listed(connection, ids), postgresql=is_postgresql(connection))


def run_for(
    connection: Connection, statement: _Statement, column: Column[Any], ids: Iterable[str]
) -> Iterator[CursorResult[Any]]:
    """Run `statement` for the rows whose `column` is one of `ids`, chunk by chunk.

    It is one that is made once, a constant: to put a statement together and to find its compiled form again costs more
    than to run it.
    """
    chosen = _of_ids(statement, column, postgresql=is_postgresql(connection))
    for chunk in chunks(ids):
        yield connection.execute(chosen, {_IDS: _listed(connection, chunk)})


def delete_ids(connection: Connection, table: Table, ids: Iterable[str], *where: ColumnElement[bool]) -> None:
    """`where`: constants."""
    for _ in run_for(connection, _deletion(table, *where), table.c[_key(table)[0]], ids):
        pass


@cache
def _deletion(table: Table, *where: ColumnElement[bool]) -> Delete:
    return delete(table).where(*where)


def ids_in(connection: Connection, ids: Iterable[str], *tables: Table) -> set[str]:
    """Those of the ids that one of the tables has, in one statement: a row that moves between two is in one of them."""
    query = _keys_among(tables, postgresql=is_postgresql(connection))
    found: set[str] = set()
    for chunk in chunks(ids):
        answer = connection.execute(query, {_IDS: _listed(connection, chunk)})
        found.update(answer.scalars() if is_postgresql(connection) else json.loads(answer.scalar_one()))
    return found


@cache
def _of_ids(statement: _Statement, column: Column[Any], *, postgresql: bool) -> _Statement:
    return statement.where(_among(column, None, postgresql=postgresql))


@cache
def _keys_among(tables: tuple[Table, ...], *, postgresql: bool) -> CompoundSelect[Any] | Select[Any]:
    """One id a row; on SQLite all of them in one, as JSON, since each row is a wait of its own."""
    keys = (table.c[_key(table)[0]] for table in tables)
    found = union_all(*(select(key.label("id")).where(_among(key, None, postgresql=postgresql)) for key in keys))
    return found if postgresql else select(func.json_group_array(found.subquery().c.id))


def _among(column: Column[Any], listed: object, *, postgresql: bool) -> ColumnElement[bool]:
    if postgresql:
        return column == any_(bindparam(_IDS, listed, ARRAY(Text)))
    return column.in_(select(func.json_each(bindparam(_IDS, listed, Text)).table_valued("value").c.value))


def _listed(connection: Connection, ids: Sequence[str]) -> object:
    """As the parameter of a statement."""
    return ids if is_postgresql(connection) else json.dumps(ids)


def chunks(task_ids: Iterable[str]) -> Iterator[list[str]]:
    """In order of id, so that two transactions that lock the same rows lock them in the same order."""
    ids = sorted(task_ids)
    for at in range(0, len(ids), _CHUNK):
        yield ids[at : at + _CHUNK]


def _insert_all(connection: Connection, table: Table, rows: Sequence[Values], rule: str = "") -> int:
    """How many went in. Padded with rows of nothing to a power of two, so that there are few statements to compile."""
    width, inserted = len(table.c), 0
    for some in _pieces(table, rows):
        length = 1 << (len(some) - 1).bit_length()
        padding = (None,) * (width * (length - len(some)))
        statement = _insert_of(table, length, rule)
        inserted += connection.exec_driver_sql(statement, (*chain.from_iterable(some), *padding)).rowcount
    return inserted


def _pieces(table: Table, rows: Sequence[Values]) -> Iterator[Sequence[Values]]:
    """Of bounded length and bytes: a statement holds what it was given last until it is given something else."""
    binary = [place for place, column in enumerate(table.c) if isinstance(column.type, LargeBinary)]
    begin = size = 0
    for end, row in enumerate(rows):
        more = sum([len(cast("bytes", row[place])) for place in binary])
        if end > begin and (end - begin == _LARGEST_INSERT or size + more > _LARGEST_INSERT_BYTES):
            yield rows[begin:end]
            begin, size = end, 0
        size += more
    if begin < len(rows):
        yield rows[begin:]


@cache
def _insert_of(table: Table, length: int, rule: str) -> str:
    marks = f"({', '.join('?' for _ in table.c)})"
    given = f"SELECT * FROM (VALUES {', '.join([marks] * length)}) WHERE column1 IS NOT NULL"  # noqa: S608  # our own names
    return f"INSERT INTO {table.name} ({_names(table)}) {given} {rule}"


@cache
def _if_unknown(*elsewhere: Table) -> str:
    absent = (f"AND NOT EXISTS (SELECT 1 FROM {each.name} WHERE {_key(each)[0]} = column1)" for each in elsewhere)  # noqa: S608  # our own names
    return f"{' '.join(absent)} ON CONFLICT (task_id) DO NOTHING"


@cache
def _from_arrays(table: Table) -> str:
    """Spans become moments by the server's own clock."""
    # %b: in the binary format, which needs no quoting.
    arrays = ", ".join(f"%({column.name})b::{_array_type(column)}" for column in table.c)
    values = ", ".join(_moment(table, column) if column.info else column.name for column in table.c)
    given = f"SELECT {values} FROM unnest({arrays}) AS given ({_names(table)})"  # noqa: S608  # our own names
    return f"INSERT INTO {table.name} ({_names(table)}) {given}"  # as above


def _moment(table: Table, column: Column[Any]) -> str:
    moment = f"{SERVER_TIME} + {column.name}"
    return f"greatest({moment}, eta)" if table is waiting else moment  # `greatest` passes over a null


@cache
def _key(table: Table) -> tuple[str, ...]:
    """The names of the primary key's columns."""
    return tuple(column.name for column in table.primary_key)


def _names(table: Table) -> str:
    return ", ".join(column.name for column in table.c)


def _array_type(column: Column[Any]) -> str:
    return next(name for kind, name in _ARRAYS if isinstance(column.type, kind))


def _arrays(table: Table, rows: Sequence[Values]) -> dict[str, list[Any]]:
    """One list a column, in order of the key (see `chunks`)."""
    ordered = sorted(rows, key=itemgetter(slice(len(_key(table)))))
    arrays: dict[str, list[Any]] = {}
    for column, values in zip(table.c, zip(*ordered, strict=True), strict=True):
        arrays[column.name] = list(values)
        if isinstance(column.type, Double):  # the driver wants one type in a list, and a time may be a whole number
            arrays[column.name] = [value if value is None else float(value) for value in values]
    return arrays
