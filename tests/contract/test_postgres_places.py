"""PostgreSQL where it runs: behind a pooler of transactions, and as several servers of which one takes writes."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from urllib.parse import quote

import psycopg
import pytest

from listening_spool import opened
from mlproducer.errors import SpoolUnavailable
from mlproducer.rows import Again, Bury, CountKey, DeadFilter, Tally, Verdict
from mlproducer.spool.sql import PostgresSpool
from mlproducer.testing.spool_contract import DONE, NOW, audit, claim, confirm, row
from mlproducer.worker.claims import Claim
from mlproducer.worker.sql_claims import SqlClaims
from private_pgbouncer import PrivatePgBouncer
from private_postgres import PASSWORD, USER, PrivatePostgres

NAMES = itertools.count(1)
SOON = 60.0


@pytest.fixture(scope="module")
def pooled(postgres: PrivatePostgres) -> Iterator[PrivatePgBouncer]:
    """Two connections for whoever comes, so that nobody has one to himself."""
    with PrivatePgBouncer(postgres, postgres.new_database(), connections=2) as pooler:
        yield pooler


async def test_a_spool_does_all_its_work_through_a_pooler(pooled: PrivatePgBouncer) -> None:
    one, other = PostgresSpool(pooled.url), PostgresSpool(pooled.url)
    await asyncio.gather(one.open(), other.open())
    assert all(
        await asyncio.gather(*(spool.put(row(f"{n}-{i}")) for i, spool in enumerate((one, other)) for n in range(50)))
    )
    leases = [lease for spool in (one, other) for lease in await spool.lease(50, hold=60)]
    assert len({lease.row.envelope.task_id for lease in leases}) == 100
    verdicts: Iterator[Verdict] = itertools.cycle(
        (DONE, Again(0.0, 1, "nacked", "", alone=False), Bury(NOW, 3, "nacked", None, "why"))
    )
    assert all(await one.settle(list(zip(leases, verdicts, strict=False))))
    dead = [letter.task_id for letter in await other.dead(DeadFilter(), limit=100)]
    assert await other.replay(audit(*dead)) == len(dead) == 33
    assert await one.claim(claim("mine"), hold=60) is None
    assert await other.claim(claim("mine", token="you"), hold=60) is not None
    await confirm(one, "mine")
    assert await other.count([Tally("once", 60.0, {CountKey(1, "embed_vectors", "accepted"): 1})]) == [True]
    assert (await one.measure()).tasks == 66
    await asyncio.gather(one.close(), other.close())


async def test_behind_a_pooler_nothing_of_a_session_is_left_to_the_next_client(pooled: PrivatePgBouncer) -> None:
    spool = PostgresSpool(f"{pooled.url}?timeout=7")
    spool.watch(lambda: None)
    await spool.open()
    for n in range(40):  # more than after which the driver would prepare its statements
        await spool.put(row(f"pooled-{n}"))
        await spool.find(f"pooled-{n}")
    await asyncio.sleep(0.3)
    questions = ("SHOW statement_timeout", "SELECT count(*) FROM pg_prepared_statements", "SHOW lock_timeout")
    for _ in range(4):
        with psycopg.connect(pooled.url, prepare_threshold=None) as client:
            found = [client.execute(each.encode()).fetchone() for each in questions]
            assert found == [("0",), (0,), ("0",)]
            assert client.execute("SELECT pg_listening_channels()").fetchall() == []
    await spool.close()


async def test_where_nothing_is_in_between_statements_are_prepared(postgres_schema_url: str) -> None:
    spool = PostgresSpool(postgres_schema_url)
    await spool.open()
    for n in range(10):
        await spool.put(row(f"direct-{n}"))
    with spool._opened().writing.begin() as connection:
        prepared = connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar_one()
    await spool.close()
    assert prepared > 0


async def test_a_pooler_that_refuses_startup_options_is_refused_with_the_words_to_change(
    pooled: PrivatePgBouncer,
) -> None:
    spool = PostgresSpool(f"{pooled.url}?options=-csearch_path%3Dpublic")
    with pytest.raises(SpoolUnavailable, match=r"pooler.*\?options=.*ALTER ROLE"):
        await spool.open()


def test_claims_of_workers_go_through_a_pooler(pooled: PrivatePgBouncer) -> None:
    store = SqlClaims(pooled.url)
    for n in range(20):
        assert store.claim(Claim(f"pooled-{n}", "me", 0), 60.0) is None
        store.finish(Claim(f"pooled-{n}", "me", 0), 60.0)
    store.close()


class Two:
    """Two servers with a database of one name; `first` takes writes until it is demoted."""

    def __init__(self, first: PrivatePostgres, second: PrivatePostgres) -> None:
        self.first, self.second = first, second
        self.name = f"failover_{next(NAMES)}"
        for server in (first, second):
            server.sql(f"CREATE DATABASE {self.name}")

    def url(self, **query: object) -> str:
        hosts = f"127.0.0.1:{self.first.port},127.0.0.1:{self.second.port}"
        rest = "&".join(f"{name}={value}" for name, value in query.items())
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@{hosts}/{self.name}{rest and '?' + rest}"

    def demote(self, server: PrivatePostgres, *, read_only: bool = True) -> None:
        """As a standby is: what is open stays open, and a write is refused. Returns when that is so for everybody."""
        word = "on" if read_only else "off"
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")  # so that it can be taken back
            connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {word}".encode())
            connection.execute("SELECT pg_reload_conf()")
        # The server reads the file anew at a moment of its own, and tells the processes of open connections before it
        # starts the process of a new one: a new one that has the value means that the open ones were told.
        while server.sql("SHOW default_transaction_read_only") != [(word,)]:
            time.sleep(0.01)


@pytest.fixture
def two(postgres: PrivatePostgres, own_postgres: PrivatePostgres) -> Iterator[Two]:
    pair = Two(own_postgres, postgres)
    yield pair
    pair.demote(own_postgres, read_only=False)


async def put_when_it_works(spool: PostgresSpool, task_id: str) -> int:
    """How often it was refused before."""
    for refused in range(1_000):
        try:
            await spool.put(row(task_id))
        except SpoolUnavailable:
            await asyncio.sleep(0.02)
        else:
            return refused
    raise AssertionError("it never worked")


async def test_a_server_that_became_read_only_is_left_at_once_for_the_next_one(two: Two) -> None:
    async with asyncio.timeout(SOON), opened(two.url()) as (spool, heard):
        await spool.put(row("before"))
        assert await spool.find("before") is not None
        async with opened(two.second.url(two.name)) as (other, _):
            await asyncio.to_thread(two.demote, two.first)
            assert await put_when_it_works(spool, "after") <= 3
            assert await other.find("after") is not None, "it is on the second server"
            assert await spool.find("before") is None, "and what is read is read there"
            heard.clear()
            while not heard:  # the ear has moved, too
                await other.put(row(f"told-{next(NAMES)}"))
                await asyncio.sleep(0.1)


async def test_the_first_host_need_not_be_the_one_that_takes_writes_nor_be_up(two: Two) -> None:
    await asyncio.to_thread(two.demote, two.first)
    async with asyncio.timeout(SOON), opened(two.url()) as (spool, _):
        await spool.put(row("a"))
    await asyncio.to_thread(two.first.stop)
    async with asyncio.timeout(SOON), opened(two.url()) as (spool, _):
        assert await spool.find("a") is not None
    await asyncio.to_thread(two.first.start)


async def test_a_lone_server_that_takes_no_writes_is_refused_with_words_and_works_again_by_itself(two: Two) -> None:
    async with asyncio.timeout(SOON), opened(two.first.url(two.name)) as (spool, _):
        await asyncio.to_thread(two.demote, two.first)
        with pytest.raises(SpoolUnavailable, match=r"takes no writes .*name the primary"):
            await spool.put(row("a"))
        with pytest.raises(SpoolUnavailable, match=r"takes no writes .*name the primary"):
            await spool.put(row("a"))
        await asyncio.to_thread(two.demote, two.first, read_only=False)
        await put_when_it_works(spool, "a")


def test_claims_of_workers_move_too(two: Two) -> None:
    standby = SqlClaims(two.second.url(two.name))
    standby.renew(Claim("a", "me", 0), 60.0)  # so that it has the table, too
    standby.close()
    store = SqlClaims(two.url())
    assert store.claim(Claim("a", "me", 0), 60.0) is None
    two.demote(two.first)
    for _ in range(5):
        try:
            found = store.claim(Claim("b", "me", 0), 60.0)
        except Exception:  # noqa: BLE001, S112  # the first one meets the fault
            continue
        assert found is None
        break
    else:
        raise AssertionError("it stayed where nothing can be written")
    assert two.second.sql("SELECT task_id FROM mlproducer_once", two.name) == [("b",)]
    store.close()
