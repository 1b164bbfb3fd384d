"""Which rows a drain takes: the oldest of all, or the oldest of each flow. In one transaction of the caller's.

**By flow**, the work is that of the flows asked for and the rows given, however many rows wait: one index has the
rows of a flow side by side, in order of when they are free.
- SQLite is told which index to use (INDEXED BY). All flows are asked for in one statement with one answer, since each
  row of an answer is a wait of its own (see `bulk`). Its LIMIT cannot differ from flow to flow, so flows whose quotas
  are alike are asked for together, and no more than twice the rows are looked at.
- PostgreSQL's planner chooses by what it knows of the table, which may be long out of date. Asked for the rows *of* a
  flow in order of `free_at`, it may walk the index of `free_at`, through all rows of others. So the route is said as
  one of a list, of one, and the order is by route and `free_at`: it cannot know that these are of one route, and only
  the one index has that order. (A comparison of whole places would not do: it begins at the first row of the flow and
  does not end before the last one of the route.)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import (
    ARRAY,
    Connection,
    Integer,
    RowMapping,
    Select,
    Text,
    Update,
    bindparam,
    or_,
    select,
    text,
    update,
)

from mlproducer.rows import LEASE_BYTES, Lease
from mlproducer.spool.bulk import among, chunks, is_postgresql
from mlproducer.spool.columns import row_from
from mlproducer.spool.schema import waiting
from mlproducer.spool.store_time import SERVER_TIME, StoreTime
from mlproducer.spool.transaction import Transaction
from mlproducer.spool.turns import in_turn, left_over, quotas, room_for
from mlproducer.task import Flow

_FLOWS: Final = text("""
    WITH RECURSIVE route (name) AS (
        SELECT min(routing_key) FROM mlproducer_waiting INDEXED BY mlproducer_waiting_route
        UNION ALL
        SELECT (
            SELECT min(routing_key) FROM mlproducer_waiting INDEXED BY mlproducer_waiting_route
            WHERE routing_key > name
        ) FROM route WHERE name IS NOT NULL
    ), flow (route, tenant) AS (
        SELECT name, (
            SELECT min(tenant) FROM mlproducer_waiting INDEXED BY mlproducer_waiting_route WHERE routing_key = name
        ) FROM route WHERE name IS NOT NULL
        UNION ALL
        SELECT route, (
            SELECT min(tenant) FROM mlproducer_waiting INDEXED BY mlproducer_waiting_route
            WHERE routing_key = route AND tenant > flow.tenant
        ) FROM flow WHERE flow.tenant IS NOT NULL
    )
    SELECT json_group_array(json_array(route, flow.tenant)) FROM flow
    WHERE flow.tenant IS NOT NULL AND (
        SELECT min(free_at) FROM mlproducer_waiting INDEXED BY mlproducer_waiting_route
        WHERE routing_key = route AND tenant = flow.tenant
    ) <= :now
""")
_FLOWS_ON_SERVER: Final = text(f"""
    WITH RECURSIVE flow AS (
        (
            SELECT routing_key, tenant, free_at FROM mlproducer_waiting
            ORDER BY routing_key, tenant, free_at LIMIT 1
        )
        UNION ALL
        SELECT following.routing_key, following.tenant, following.free_at FROM flow, LATERAL (
            SELECT routing_key, tenant, free_at FROM mlproducer_waiting
            WHERE (mlproducer_waiting.routing_key, mlproducer_waiting.tenant) > (flow.routing_key, flow.tenant)
            ORDER BY routing_key, tenant, free_at LIMIT 1
        ) AS following
    )
    SELECT routing_key, tenant FROM flow WHERE free_at <= {SERVER_TIME}
""")  # noqa: S608  # our own words
"""From the first row of a flow to that of the next one."""

_FREE: Final = text("""
    SELECT json_group_array(json((
        SELECT json_group_array(json_array(id, size)) FROM (
            SELECT rowid AS id, size FROM mlproducer_waiting INDEXED BY mlproducer_waiting_route
            WHERE routing_key = json_extract(asked.value, '$[0]') AND tenant = json_extract(asked.value, '$[1]')
                AND free_at <= :now
            ORDER BY free_at LIMIT :most
        )
    ))) FROM json_each(:flows) AS asked
""")
_FREE_ON_SERVER: Final = text(f"""
    SELECT asked.number, free.task_id, free.size, free.counted
    FROM unnest(:keys, :tenants, :quotas) WITH ORDINALITY AS asked (routing_key, tenant, quota, number), LATERAL (
        SELECT task_id, size, counted, free_at FROM mlproducer_waiting
        WHERE routing_key = ANY (ARRAY[asked.routing_key]) AND tenant = asked.tenant AND free_at <= {SERVER_TIME}
        ORDER BY routing_key, tenant, free_at LIMIT asked.quota FOR UPDATE SKIP LOCKED
    ) AS free ORDER BY asked.number, free.free_at
""").bindparams(  # noqa: S608  # as above
    bindparam("keys", type_=ARRAY(Text)),
    bindparam("tenants", type_=ARRAY(Text)),
    bindparam("quotas", type_=ARRAY(Integer)),
)

_BY_ROWID: Final = text("SELECT * FROM mlproducer_waiting WHERE rowid IN (SELECT value FROM json_each(:ids))")


class _Free(Struct, frozen=True, gc=False):
    """A row that may be leased. `place` is its id on PostgreSQL, its row id on SQLite."""

    place: str | int
    size: int
    counted: bool = True
    """On SQLite that is known from the row, when it is read."""


_Taken = tuple[list[RowMapping], list[int]]
"""The rows, and the sizes of those that were not in the totals yet."""


def due_flows(connection: Connection, time: StoreTime) -> list[Flow]:
    """Those of rows that may be leased now."""
    if is_postgresql(connection):
        return [Flow(*found) for found in connection.execute(_FLOWS_ON_SERVER)]
    return [Flow(*found) for found in json.loads(connection.execute(_FLOWS, {"now": time.now()}).scalar_one())]


def lease_rows(tx: Transaction, limit: int, hold: float, token: str, *, expired: bool) -> list[Lease]:
    """By when a row became free, from one index; a row whose lease ended queues up at that end, behind its elders.

    Rows that another instance is leasing at this moment are passed over: they will be its own when it commits.
    """
    now = tx.time.now()
    if expired:
        past = waiting.c.expires_at <= tx.time.utc()
        unheld = or_(waiting.c.token.is_(None), waiting.c.free_at <= now)
        query = select(waiting).where(past, unheld).order_by(waiting.c.expires_at).limit(limit)
    else:
        query = select(waiting).where(waiting.c.free_at <= now).order_by(waiting.c.free_at).limit(limit)
    take = _take_by_size if is_postgresql(tx.connection) else _take_row_by_row
    return _leased(tx, [take(tx.connection, query, _held(tx, hold, token))], token)


def lease_shares(tx: Transaction, limit: int, hold: float, token: str, shares: Mapping[Flow, int]) -> list[Lease]:
    """The oldest of each flow, and the flows in turn (see `turns`). Else as `lease_rows`."""
    left = dict(shares)
    on_server = is_postgresql(tx.connection)
    held = _held(tx, hold, token)
    taken: list[_Taken] = []
    room: int | None = None
    while asked := quotas(left, limit):
        found = _free_on_server(tx.connection, asked) if on_server else _free(tx, asked)
        if room is None:
            room = room_for(found, _size, LEASE_BYTES)
        chosen = in_turn(found, _size, room)
        rows, uncounted = (_take_ids if on_server else _take_rowids)(tx.connection, chosen, held)
        taken.append((rows, uncounted))
        left_over(left, asked, Counter(Flow(row["routing_key"], row["tenant"]) for row in rows))
        room -= sum(map(_size, chosen))
        limit -= len(chosen)
    return _leased(tx, taken, token)


def _held(tx: Transaction, hold: float, token: str) -> Update:
    return update(waiting).values(free_at=tx.time.now() + hold, token=token, counted=1)


def _leased(tx: Transaction, taken: Sequence[_Taken], token: str) -> list[Lease]:
    for _, uncounted in taken:
        tx.count(tasks=len(uncounted), size=sum(uncounted))
    leases = [Lease(row_from(each, tx.time), token) for rows, _ in taken for each in rows]
    return sorted(leases, key=lambda lease: lease.row.due_at)


def _size(row: _Free) -> int:
    return row.size


def _take_by_size(connection: Connection, query: Select[Any], held: Update) -> _Taken:
    """PostgreSQL keeps large content apart from its row, and the driver has the whole answer before we see a row."""
    sizes = query.with_only_columns(waiting.c.task_id, waiting.c.size, waiting.c.counted)
    found = connection.execute(sizes.with_for_update(skip_locked=True)).mappings()
    chosen = [_Free(each["task_id"], each["size"], bool(each["counted"])) for each in _within_bytes(found)]
    return _take_ids(connection, chosen, held)


def _take_ids(connection: Connection, chosen: Sequence[_Free], held: Update) -> _Taken:
    rows: list[RowMapping] = []
    for chunk in chunks(str(each.place) for each in chosen):
        taken = held.where(among(connection, waiting.c.task_id, chunk)).returning(waiting)
        rows += connection.execute(taken).mappings()
    return rows, [each.size for each in chosen if not each.counted]


def _take_row_by_row(connection: Connection, query: Select[Any], held: Update) -> _Taken:
    """SQLite gives one row after the other. To ask for sizes alone would read the content, which lies before them."""
    found = connection.execute(query)
    rows = _within_bytes(found.mappings())
    found.close()
    return _take_rows(connection, rows, held)


def _take_rowids(connection: Connection, chosen: Sequence[_Free], held: Update) -> _Taken:
    ids = json.dumps([each.place for each in chosen])
    return _take_rows(connection, list(connection.execute(_BY_ROWID, {"ids": ids}).mappings()), held)


def _take_rows(connection: Connection, rows: list[RowMapping], held: Update) -> _Taken:
    for chunk in chunks(each["task_id"] for each in rows):
        connection.execute(held.where(among(connection, waiting.c.task_id, chunk)))
    return rows, [each["size"] for each in rows if not each["counted"]]


def _within_bytes(found: Iterable[RowMapping]) -> list[RowMapping]:
    chosen: list[RowMapping] = []
    size = 0
    for each in found:
        size += each["size"]
        if chosen and size > LEASE_BYTES:
            break
        chosen.append(each)
    return chosen


def _free(tx: Transaction, asked: Mapping[Flow, int]) -> list[list[_Free]]:
    """On SQLite: for each flow, in the order asked for."""
    alike: dict[int, list[Flow]] = {}
    for flow, quota in asked.items():
        alike.setdefault(quota.bit_length(), []).append(flow)
    found: dict[Flow, list[_Free]] = {}
    for flows in alike.values():
        given = {"now": tx.time.now(), "flows": json.dumps(flows), "most": max(asked[flow] for flow in flows)}
        answer = json.loads(tx.connection.execute(_FREE, given).scalar_one())
        for flow, rows in zip(flows, answer, strict=True):
            found[flow] = [_Free(rowid, size) for rowid, size in rows[: asked[flow]]]
    return [found[flow] for flow in asked]


def _free_on_server(connection: Connection, asked: Mapping[Flow, int]) -> list[list[_Free]]:
    """On PostgreSQL, where they are locked: for each flow, in the order asked for."""
    found: list[list[_Free]] = [[] for _ in asked]
    keys, tenants = [flow.route for flow in asked], [flow.tenant for flow in asked]
    given = {"keys": keys, "tenants": tenants, "quotas": list(asked.values())}
    for number, task_id, size, counted in connection.execute(_FREE_ON_SERVER, given):
        found[number - 1].append(_Free(task_id, size, bool(counted)))
    return found
