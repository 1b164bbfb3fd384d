"""A lease by route asks for its own rows only, however many wait on other routes; and what each store does for that."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from mlproducer.clock import SystemClock
from mlproducer.errors import SpoolUnavailable
from mlproducer.rows import Again, Bury, Settlement
from mlproducer.spool import leases
from mlproducer.spool.columns import outbox_columns
from mlproducer.spool.redis import RedisSpool
from mlproducer.spool.schema import waiting
from mlproducer.spool.sql import PostgresSpool, SqliteSpool
from mlproducer.spool.transaction import Transaction
from mlproducer.spool.turns import in_turn, left_over, quotas, room_for
from mlproducer.task import Flow
from mlproducer.testing.spool_contract import DONE, NOW, audit, row
from mlproducer.testing.spool_contract.of_routes import flows, ids, of, put_all, routed
from older_redis import BeforeTenants, OlderRedisSpool
from private_redis import DURABLE, PrivateRedis

# Turns

SHARES = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 9))


@given(SHARES, st.integers(0, 40))
def test_quotas_are_even_as_far_as_shares_and_limit_allow(shares: dict[str, int], limit: int) -> None:
    turns = [key for n in range(9) for key, share in shares.items() if n < share]
    expected = {key: turns[:limit].count(key) for key in turns[:limit]}
    assert quotas(shares, limit) == expected


@given(st.lists(st.lists(st.integers(1, 9), max_size=5), max_size=5), st.integers(0, 60))
def test_rows_are_chosen_in_turn_and_only_a_route_that_has_no_room_is_passed_over(
    routes: list[list[int]], most: int
) -> None:
    numbered = [[(n, place, size) for place, size in enumerate(sizes)] for n, sizes in enumerate(routes)]
    room = room_for(numbered, lambda each: each[2], most)
    chosen = in_turn(numbered, lambda each: each[2], room)
    assert [(place, n) for n, place, _ in chosen] == sorted((place, n) for n, place, _ in chosen)
    left = room - sum(size for _, _, size in chosen)
    assert left >= 0
    for n, rows in enumerate(numbered):
        given_ = [each for each in chosen if each[0] == n]
        assert given_ == rows[: len(given_)], "the oldest first"
        assert len(given_) == len(rows) or rows[len(given_)][2] > left, "nothing that fits is left"
    assert chosen or not any(routes), "at least one, whatever its size"


def test_a_route_that_gave_less_than_its_quota_has_no_more_and_the_others_go_behind() -> None:
    shares = {"a": 5, "b": 5, "c": 5}
    left_over(shares, {"a": 2, "b": 2}, {"a": 2, "b": 1})
    assert list(shares.items()) == [("c", 5), ("a", 3)]


# SQLite


BIG = pytest.mark.parametrize("big", [Flow("big"), Flow("small", "t")], ids=["another route", "another tenant"])


def steps_of(spool: SqliteSpool, big: Flow) -> int:
    """Of SQLite's machine, for the flows and a lease of one row of a small one, which is given back."""
    assert spool._store is not None
    count = 0

    def step() -> None:
        nonlocal count
        count += 1

    with spool._store.writing.connect() as connection:
        driver = connection.connection.dbapi_connection
        assert driver is not None
        driver.set_progress_handler(step, 1)
        try:
            found = leases.due_flows(connection, spool._store.time)
            assert sorted(found) == sorted([big, Flow("small")])
            (taken,) = leases.lease_shares(Transaction(connection, spool._store.time), 9, 60, "t", of({"small": 1}))
            assert taken.row.envelope.flow == Flow("small")
        finally:
            driver.set_progress_handler(None, 1)
            connection.rollback()
    return count


@BIG
@pytest.mark.parametrize("analyzed", [False, True])
async def test_sqlite_takes_as_many_steps_whatever_waits_on_another_flow(
    tmp_path: Path, *, analyzed: bool, big: Flow
) -> None:
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
    await put_all(spool, (routed("small 1", "small"), routed("small 2", "small")))
    await spool.put(routed("big", big.route, tenant=big.tenant, delay=-9))
    assert spool._store is not None
    before = steps_of(spool, big)
    values = {name.rstrip("_"): value for name, value in outbox_columns(row("x").envelope, NOW).items()}
    now = SystemClock().now()
    values |= {
        "routing_key": big.route,
        "tenant": big.tenant,
        "free_at": now - 9_000,
        "due_at": now - 9_000,
        "first_due_at": now - 9_000,
    }
    copied = ", ".join("'t' || value" if name == "task_id" else f":{name}" for name in values)
    fill = f"INSERT INTO mlproducer_waiting ({', '.join(values)}) SELECT {copied} FROM generate_series"  # noqa: S608  # our own names
    series = "WITH RECURSIVE generate_series (value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM generate_series LIMIT 20000)"
    with spool._store.writing.begin() as connection:
        connection.execute(text(f"{series} {fill}"), values)
        if analyzed:
            connection.exec_driver_sql("ANALYZE")
    after = steps_of(spool, big)
    assert abs(after - before) < 50  # a few less with some versions of SQLite
    await spool.close()


async def test_a_first_row_may_be_larger_than_a_lease_and_then_it_is_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_BYTES", 500)
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
    await put_all(spool, (routed("a", "a", size=9_000), routed("b", "b", size=400), routed("c", "c", size=90)))
    assert ids(await spool.lease(9, hold=60, shares=of(dict.fromkeys("abc", 1)))) == ["a"]
    assert ids(await spool.lease(9, hold=60, shares=of(dict.fromkeys("abc", 1)))) == ["b"]
    assert ids(await spool.lease(9, hold=60, shares=of(dict.fromkeys("abc", 1)))) == ["c"]
    await spool.close()


# PostgreSQL

FILL = """
    INSERT INTO mlproducer_waiting (task_id, task_type, routing_key, properties, body, size, accepted_at, due_at, free_at,
        attempts, cause, text, alone, first_due_at, tenant)
    SELECT %s || n, 't', %s, '', '', 0, 1, n, n, 0, '', '', 0, n, %s FROM generate_series(1, %s) AS n
"""


@pytest.fixture
async def server(postgres_schema_url: str) -> AsyncIterator[PostgresSpool]:
    spool = PostgresSpool(postgres_schema_url)
    await spool.open()
    yield spool
    await spool.close()


def pages_of(spool: PostgresSpool, statement: str, **given_: object) -> int:
    """That the server looked at to run it."""
    assert spool._store is not None
    with spool._store.writing.connect() as connection:
        plan = connection.execute(text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"), given_).scalar_one()
        connection.rollback()
    found: dict[str, Any] = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
    return int(found["Shared Hit Blocks"]) + int(found["Shared Read Blocks"])


def free_on_server() -> str:
    """The statement, with the types that the driver would say."""
    free = str(leases._FREE_ON_SERVER).replace(":quotas", ":quotas ::int[]")
    for name in (":keys", ":tenants"):
        free = free.replace(name, f"{name} ::text[]")
    return free


@BIG
@pytest.mark.parametrize("known", ["never", "before the flood", "after the flood"])
async def test_postgresql_looks_at_as_few_pages_whatever_waits_on_another_flow(
    server: PostgresSpool, postgres_schema_url: str, known: str, big: Flow
) -> None:
    with psycopg.connect(postgres_schema_url, autocommit=True) as db:
        db.execute("ALTER TABLE mlproducer_waiting SET (autovacuum_enabled = false)")
        db.execute(FILL, ("early", *big, 50))
        if known == "before the flood":
            db.execute("ANALYZE mlproducer_waiting")
        db.execute(FILL, ("t", *big, 20_000))
        await server.put(routed("small", "small", delay=-1))
        if known == "after the flood":
            db.execute("ANALYZE mlproducer_waiting")
    free = free_on_server()
    assert pages_of(server, str(leases._FLOWS_ON_SERVER)) < 40
    assert pages_of(server, free, keys=["small", "nobody"], tenants=["", ""], quotas=[9, 9]) < 40
    assert pages_of(server, free, keys=[big.route], tenants=[big.tenant], quotas=[5]) < 40
    assert sorted(await server.flows()) == sorted([big, Flow("small")])
    assert ids(await server.lease(9, hold=60, shares=of({"small": 9}))) == ["small"]


async def test_postgresql_looks_at_as_few_pages_however_many_rows_of_the_flow_are_not_due(
    server: PostgresSpool, postgres_schema_url: str
) -> None:
    with psycopg.connect(postgres_schema_url, autocommit=True) as db:
        db.execute(FILL, ("t", "small", "t", 20_000))
        db.execute("UPDATE mlproducer_waiting SET free_at = 9e9, due_at = 9e9")
        db.execute("VACUUM ANALYZE mlproducer_waiting")
    await server.put(routed("due", "small", tenant="t", delay=-1))
    assert pages_of(server, free_on_server(), keys=["small"], tenants=["t"], quotas=[9]) < 40


async def test_rows_that_another_instance_is_leasing_are_passed_over(
    server: PostgresSpool, postgres_schema_url: str
) -> None:
    await put_all(server, (routed(f"{key}{n}", key, delay=n - 9) for key in "ab" for n in range(3)))
    with psycopg.connect(postgres_schema_url) as other:
        other.execute("SELECT 1 FROM mlproducer_waiting WHERE task_id IN ('a0', 'b1') FOR UPDATE")
        taken = await server.lease(3, hold=60, shares=of({"a": 9, "b": 9}))
        assert ids(taken) == ["a1", "a2", "b0"]
        assert ids(await server.lease(9, hold=60, shares=of({"a": 9, "b": 9}))) == ["b2"]
    assert ids(await server.lease(9, hold=60, shares=of({"a": 9, "b": 9}))) == ["a0", "b1"]


async def test_what_the_outbox_put_is_leased_by_route_and_counted_once(
    server: PostgresSpool, postgres_schema_url: str
) -> None:
    columns = {name.rstrip("_"): value for name, value in outbox_columns(row("a").envelope, NOW - 1e8).items()}
    names, marks = ", ".join(columns), ", ".join(f"%({name})s" for name in columns)
    with psycopg.connect(postgres_schema_url) as db:
        db.execute(f"INSERT INTO mlproducer_waiting ({names}) VALUES ({marks})".encode(), columns)  # noqa: S608  # our own names
    (lease,) = await server.lease(9, hold=60, shares=of({"ml.embed": 9}))
    size = await server.measure()
    assert (size.tasks, size.bytes) == (1, lease.row.envelope.size)
    await server.settle([(lease, DONE)])
    size = await server.measure()
    assert (size.tasks, size.bytes) == (0, 0)


# Databases, and a producer of the version before tenants that is running


_WITHOUT = "INSERT INTO mlproducer_waiting ({names}) SELECT {values} FROM mlproducer_waiting WHERE task_id = 'first'"
_OLDER = {
    "sqlite": (
        """
        WITH RECURSIVE route (name) AS (
            SELECT min(routing_key) FROM mlproducer_waiting INDEXED BY mlproducer_waiting_route
            UNION ALL
            SELECT (
                SELECT min(routing_key) FROM mlproducer_waiting INDEXED BY mlproducer_waiting_route
                WHERE routing_key > name
            ) FROM route WHERE name IS NOT NULL
        )
        SELECT name FROM route WHERE name IS NOT NULL AND (
            SELECT min(free_at) FROM mlproducer_waiting INDEXED BY mlproducer_waiting_route WHERE routing_key = name
        ) <= 9e9
        """,
        """
        SELECT task_id FROM mlproducer_waiting INDEXED BY mlproducer_waiting_route
        WHERE routing_key = 'r' AND free_at <= 9e9 ORDER BY free_at LIMIT 9
        """,
    ),
    "postgresql": (
        """
        WITH RECURSIVE route AS (
            (SELECT routing_key, free_at FROM mlproducer_waiting ORDER BY routing_key, free_at LIMIT 1)
            UNION ALL
            SELECT following.routing_key, following.free_at FROM route, LATERAL (
                SELECT routing_key, free_at FROM mlproducer_waiting
                WHERE mlproducer_waiting.routing_key > route.routing_key ORDER BY routing_key, free_at LIMIT 1
            ) AS following
        )
        SELECT routing_key FROM route WHERE free_at <= 9e9
        """,
        """
        SELECT task_id FROM mlproducer_waiting
        WHERE (routing_key, free_at) >= ('r', '-infinity'::float8) AND (routing_key, free_at) <= ('r', 9e9)
        ORDER BY routing_key, free_at LIMIT 9 FOR UPDATE SKIP LOCKED
        """,
    ),
}
"""Its words: which routes have something, and the oldest of one."""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_running_producer_of_before_tenants_puts_and_finds_rows(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = tmp_path / "s.db" if kind == "sqlite" else request.getfixturevalue("postgres_schema_url")
    spool: SqliteSpool | PostgresSpool = SqliteSpool(url) if isinstance(url, Path) else PostgresSpool(url)
    await spool.open()
    await put_all(spool, (routed("first", "r", tenant="a", delay=-9), routed("other", "s", tenant="b")))
    assert spool._store is not None
    names = [column.name for column in waiting.columns if column.name != "tenant"]
    values = ["'second'" if name == "task_id" else name for name in names]
    routes, oldest = _OLDER[kind]
    with spool._store.writing.begin() as connection:
        connection.exec_driver_sql(_WITHOUT.format(names=", ".join(names), values=", ".join(values)))
        assert list(connection.exec_driver_sql(routes).scalars()) == ["r", "s"]
        assert sorted(connection.exec_driver_sql(oldest).scalars()) == ["first", "second"]
    assert sorted(await spool.flows()) == [Flow("r"), Flow("r", "a"), Flow("s", "b")]
    assert ids(await spool.lease(9, hold=60, shares={Flow("r"): 9})) == ["second"]
    await spool.close()


# Redis


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    with PrivateRedis(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
async def spool(redis: PrivateRedis) -> AsyncIterator[RedisSpool]:
    spool = RedisSpool(redis.url(), prefix=secrets.token_hex(4))
    await spool.open()
    yield spool
    await spool.close()


def sizes(redis: PrivateRedis, spool: RedisSpool) -> dict[str, int]:
    names = ("leasable", "lanes", "free")
    return {name: redis.run("ZCARD", f"{{{spool._address.prefix}}}:{name}") for name in names}


async def commands_of(redis: PrivateRedis, spool: RedisSpool, big: Flow) -> int:
    """That the scripts ran for the flows, and a lease of one flow."""
    redis.run("CONFIG", "RESETSTAT")
    assert sorted(await spool.flows()) == sorted([big, Flow("small")])
    assert len(await spool.lease(9, hold=60, shares=of({"small": 1}))) == 1
    calls = re.findall(r"cmdstat_(\S+?):calls=(\d+)", redis.run("INFO", "commandstats").decode())
    return sum(int(number) for name, number in calls if "config" not in name and name != "ping")


@BIG
async def test_redis_runs_as_many_commands_whatever_waits_on_another_flow(
    redis: PrivateRedis, spool: RedisSpool, big: Flow
) -> None:
    await put_all(spool, (routed(f"small{n}", "small") for n in range(3)))
    await spool.put(routed("big", big.route, tenant=big.tenant, delay=-9))
    await commands_of(redis, spool, big)  # the scripts are known now
    before = await commands_of(redis, spool, big)
    await put_all(spool, (routed(f"big{n}", big.route, tenant=big.tenant, delay=-9) for n in range(2_000)))
    assert await commands_of(redis, spool, big) == before


async def test_what_is_leased_settled_replayed_or_purged_leaves_nothing_behind(
    redis: PrivateRedis, spool: RedisSpool
) -> None:
    await put_all(spool, (routed(f"t{n}", "ab"[n % 2]) for n in range(6)))
    bury = Bury(NOW, 3, "nacked", None, "why")
    again = Again(-1, 1, "nacked", "", alone=False)
    first, second, *rest = await spool.lease(9, hold=60, shares=of({"a": 3, "b": 2}))
    await spool.settle([(first, again), (second, bury), *((each, DONE) for each in rest)])
    assert sizes(redis, spool) == {"leasable": 2, "lanes": 2, "free": 0}
    await spool.replay(audit(second.row.envelope.task_id))
    assert sizes(redis, spool) == {"leasable": 3, "lanes": 3, "free": 0}
    for lease in await spool.lease(9, hold=60):
        await spool.settle([(lease, bury if lease.row.envelope.task_id == second.row.envelope.task_id else DONE)])
    await spool.purge(audit(second.row.envelope.task_id, action="purge"))
    assert sizes(redis, spool) == {"leasable": 0, "lanes": 0, "free": 0}


async def test_redis_gives_a_first_row_that_is_larger_than_a_lease_alone(
    spool: RedisSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlproducer.spool.redis.leases.LEASE_BYTES", 500)
    await put_all(spool, (routed("a", "a", size=9_000), routed("b", "b", size=400), routed("c", "c", size=90)))
    for key in "abc":
        assert ids(await spool.lease(9, hold=60, shares=of(dict.fromkeys("abc", 1)))) == [key]


# Redis, and a producer of the version before routes


@pytest.fixture
async def older(redis: PrivateRedis) -> AsyncIterator[OlderRedisSpool]:
    spool = OlderRedisSpool(redis.url(), prefix=secrets.token_hex(4))
    await spool.open()
    yield spool
    await spool.close()


@pytest.fixture
async def newer(redis: PrivateRedis, older: OlderRedisSpool) -> AsyncIterator[RedisSpool]:
    """Not open: it finds what the older one left."""
    spool = RedisSpool(redis.url(), prefix=older._address.prefix)
    yield spool
    await spool.close()


async def test_an_older_spool_is_brought_up_with_rows_leases_and_dead_letters(
    redis: PrivateRedis, older: OlderRedisSpool, newer: RedisSpool
) -> None:
    await put_all(older, (routed(f"t{n}", "ab"[n % 2], delay=-1) for n in range(1_200)))
    await put_all(older, (routed("dead", "c", delay=-9), routed("held", "d", delay=-8)))
    (dead,) = await older.older_lease(1, hold=60)
    await older.settle([(dead, Bury(NOW, 3, "nacked", None, "why"))])
    (held,) = await older.older_lease(1, hold=60)
    await newer.open()
    assert sizes(redis, newer) == {"leasable": 1_201, "lanes": 1_201, "free": 0}
    assert sorted(await newer.flows()) == flows(["a", "b"])
    assert (await newer.measure()).tasks == 1_201
    assert await newer.replay(audit("dead")) == 1
    taken = await newer.lease(2_000, hold=60, shares=of(dict.fromkeys("abcd", 2_000)))
    assert len(taken) == 1_201, "and not the one that is held"
    assert await older.settle([(held, DONE)]) == [True], "whose lease goes on"


async def test_what_an_older_producer_does_beside_a_new_one_is_found(
    redis: PrivateRedis, older: OlderRedisSpool, newer: RedisSpool
) -> None:
    await newer.open()
    await put_all(newer, (routed(f"new{n}", "a") for n in range(2)))
    await put_all(older, (routed("put", "b", delay=-4), routed("again", "c", delay=-9), routed("done", "d", delay=-8)))
    again, done = await older.older_lease(2, hold=60)
    assert (await newer.measure()).next_due_at is not None
    assert sorted(await newer.flows()) == flows(["a", "b"]), "the others are held"
    assert await older.settle([(again, Again(-1, 1, "nacked", "", alone=False)), (done, DONE)]) == [True, True]
    assert sorted(await newer.flows()) == flows(["a", "b", "c"])
    assert ids(await newer.lease(9, hold=-1, shares=of(dict.fromkeys("abcd", 9)))) == ["again", "new0", "new1", "put"]
    for lease in await newer.lease(9, hold=60, shares=of(dict.fromkeys("abcd", 9))):
        await newer.settle([(lease, DONE)])
    assert sizes(redis, newer) == {"leasable": 1, "lanes": 1, "free": 0}, "what was done there, until it is met"
    assert (await newer.measure()).tasks == 0


@pytest.mark.parametrize("by_route", [False, True])
async def test_what_an_older_producer_settled_is_dropped_when_it_is_met(
    redis: PrivateRedis, older: OlderRedisSpool, newer: RedisSpool, *, by_route: bool
) -> None:
    await newer.open()
    await put_all(older, (routed(f"t{n}", "a", delay=-4) for n in range(3)))
    held = await older.older_lease(3, hold=-1)  # they are over at once, and settle all the same
    assert await newer.flows() == flows(["a"])
    assert all(await older.settle([(each, DONE) for each in held]))
    await newer.put(routed("new", "a"))
    shares = of({"a": 9}) if by_route else None
    for _ in range(2):
        await newer.lease(9, hold=60, shares=shares)
    found = sizes(redis, newer)
    assert found["leasable"] == 1
    await newer.lease(9, hold=60, shares=of({"a": 9}))
    assert sizes(redis, newer) == {"leasable": 1, "lanes": 1, "free": 0}


async def test_an_older_producer_cannot_open_a_spool_of_this_version_nor_a_visitor_of_this_one_an_older(
    redis: PrivateRedis, older: OlderRedisSpool, newer: RedisSpool
) -> None:
    visitor = RedisSpool(redis.url(), prefix=older._address.prefix, owner=False)
    with pytest.raises(SpoolUnavailable, match="start a producer of this version once"):
        await visitor.open()
    await newer.open()
    await older.close()
    with pytest.raises(AssertionError, match="an older one is refused"):
        await older.open()
    await visitor.open()
    await visitor.close()


async def test_a_producer_of_before_tenants_that_is_running_loses_no_row_and_none_of_its_rows_is_lost(
    redis: PrivateRedis, spool: RedisSpool
) -> None:
    older = BeforeTenants(redis.url(), prefix=spool._address.prefix)
    await older.open()
    await put_all(older, (routed(f"old{n}", "r") for n in range(3)))
    await put_all(spool, (routed(f"{tenant}{n}", "r", tenant=tenant) for tenant in "ab" for n in range(3)))
    assert sorted(await spool.flows()) == [Flow("r"), Flow("r", "a"), Flow("r", "b")]
    due = await older.flows()
    again, done, dead, *_ = await older.lease(99, hold=-1, shares=dict.fromkeys(due, 2))
    bury = Bury(NOW, 3, "nacked", None, "why")
    settled: list[Settlement] = [(again, Again(-1, 1, "nacked", "", alone=False)), (done, DONE), (dead, bury)]
    assert all(await older.settle(settled))
    assert await older.replay(audit(dead.row.envelope.task_id)) == 1
    taken: list[str] = []
    while due := await spool.flows():
        leases = await spool.lease(2, hold=60, shares=dict.fromkeys(due, 2))
        taken += ids(leases)
        assert all(await spool.settle([(lease, DONE) for lease in leases]))
    kept = {f"{name}{n}" for name in ("old", "a", "b") for n in range(3)} - {done.row.envelope.task_id}
    assert sorted(taken) == sorted(kept), "each once"
    assert (await spool.measure()).tasks == 0
    assert sizes(redis, spool) == {"leasable": 0, "lanes": 0, "free": 0}
    await older.close()


async def test_a_full_server_is_brought_up_and_emptied(tmp_path: Path) -> None:
    with PrivateRedis(tmp_path, DURABLE) as server:
        older, newer = OlderRedisSpool(server.url()), RedisSpool(server.url())
        await older.open()
        await put_all(older, (routed(f"t{n}", f"r{n % 7}", size=1_000) for n in range(700)))
        server.run("CONFIG", "SET", "maxmemory", "1")
        await newer.open()
        with pytest.raises(SpoolUnavailable, match="maxmemory"):
            await newer.put(row("new"))
        while due := await newer.flows():
            taken = await newer.lease(100, hold=60, shares=dict.fromkeys(due, 100))
            assert all(await newer.settle([(lease, DONE) for lease in taken]))
        assert (await newer.measure()).tasks == 0
        await asyncio.gather(older.close(), newer.close())
