"""A primary and its streaming standby: the spool goes where writes are taken, and nothing accepted is lost on the way.

A commit returns when the standby has it too (`synchronous_standby_names`): else what a primary lost with its disk would
be lost for whoever uses it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import count
from urllib.parse import quote

import psycopg
import pytest

from listening_spool import opened
from mlproducer import Settings, Task
from mlproducer.errors import OnceUnavailable, SettingsError, SpoolUnavailable
from mlproducer.outbox import Outbox
from mlproducer.spool.sql import PostgresSpool
from mlproducer.testing.spool_contract import row
from mlproducer.worker.claims import Claim, Found
from mlproducer.worker.sql_claims import SqlClaims
from private_postgres import PASSWORD, USER, PrivatePostgres

SOON = 100.0
NAMES = count(1)
Fault = Callable[[PrivatePostgres], None]


class Pair:
    """Two servers, and which is which by now."""

    def __init__(self, primary: PrivatePostgres, standby: PrivatePostgres) -> None:
        self.primary, self.standby = primary, standby
        self.database = ""

    def url(self, *servers: PrivatePostgres, **query: object) -> str:
        """The primary first, unless `servers` are named."""
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in servers or (self.primary, self.standby))
        rest = "&".join(f"{name}={value}" for name, value in query.items())
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@{hosts}/{self.database}{rest and '?' + rest}"

    def fail_over(self, fault: Fault) -> None:
        """The standby takes over, and nobody follows it yet."""
        fault(self.primary)
        self.standby.promote()
        self.primary, self.standby = self.standby, self.primary

    def ids(self, server: PrivatePostgres) -> set[str]:
        return {each[0] for each in server.sql("SELECT task_id FROM mlproducer_waiting", self.database)}


@pytest.fixture(scope="module")
def servers() -> Iterator[Pair]:
    with PrivatePostgres() as first, PrivatePostgres(follows=first) as second:
        yield Pair(first, second)


@pytest.fixture
def pair(servers: Pair) -> Pair:
    """In step, with a database of its own, whatever the last test did."""
    if not servers.standby.runs:
        servers.standby.follow(servers.primary)
    servers.primary.hold_for_standby()
    servers.database = f"pair_{next(NAMES)}"
    servers.primary.sql(f"CREATE DATABASE {servers.database}")
    return servers


class Putting:
    """Callers who put one row after the other, and what they were told."""

    def __init__(self, spool: PostgresSpool) -> None:
        self.accepted: set[str] = set()
        self.refused: list[str] = []
        self._spool = spool
        self._callers = [asyncio.create_task(self._put()) for _ in range(4)]

    async def _put(self) -> None:
        for n in NAMES:
            try:
                assert await self._spool.put(row(f"row-{n}"))
            except SpoolUnavailable as error:
                self.refused.append(str(error))
                await asyncio.sleep(0.02)
            else:
                self.accepted.add(f"row-{n}")

    async def accepts(self, more: int = 20) -> None:
        wanted = len(self.accepted) + more
        while len(self.accepted) < wanted:
            await asyncio.gather(*(each for each in self._callers if each.done()))  # what failed is said
            await asyncio.sleep(0.01)

    async def end(self) -> set[str]:
        for each in self._callers:
            each.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)
        return self.accepted


async def hears(pair: Pair, heard: list[None]) -> None:
    """The ear is where the primary is."""
    async with opened(pair.url(pair.primary)) as (other, _):
        heard.clear()
        while not heard:
            await other.put(row(f"told-{next(NAMES)}"))
            await asyncio.sleep(0.1)


async def test_a_standby_that_is_named_first_is_passed_over_and_alone_is_refused_with_words(pair: Pair) -> None:
    async with asyncio.timeout(SOON), opened(pair.url(pair.standby, pair.primary)) as (spool, heard):
        assert await spool.put(row("a"))
        assert await spool.find("a") is not None
        await hears(pair, heard)
    assert "a" in pair.ids(pair.primary)
    with pytest.raises(SpoolUnavailable, match=r"takes no writes \(a standby.*name the primary"):
        await PostgresSpool(pair.url(pair.standby)).open()


@pytest.mark.parametrize("wanted", ["standby", "prefer-standby", "read-only"])
def test_a_url_that_asks_for_a_server_without_writes_is_refused(wanted: str) -> None:
    for opening, setting in ((PostgresSpool, "ML_SPOOL_URL"), (SqlClaims, "ML_ONCE_URL")):
        with pytest.raises(SettingsError, match=rf"{setting}: `target_session_attrs` is .*read-write"):
            opening(f"postgresql://u@one,two/db?target_session_attrs={wanted}")


async def test_a_commit_that_the_standby_did_not_confirm_is_no_receipt(pair: Pair) -> None:
    async with asyncio.timeout(SOON), opened(pair.url(timeout=1)) as (spool, _):
        assert await spool.put(row("a"))
        await asyncio.to_thread(pair.standby.kill)
        with pytest.raises(SpoolUnavailable, match="did not answer within"):
            await spool.put(row("b"))
        await asyncio.to_thread(pair.standby.start)
        putting = Putting(spool)
        await putting.accepts()
        assert await putting.end() <= pair.ids(pair.standby)


@pytest.mark.parametrize("fault", [PrivatePostgres.kill, pytest.param(PrivatePostgres.pause, marks=pytest.mark.chaos)])
async def test_what_was_accepted_is_at_the_standby_that_took_over_and_puts_go_on_there(
    pair: Pair, fault: Fault
) -> None:
    async with asyncio.timeout(SOON), opened(pair.url(timeout=2)) as (spool, heard):
        putting = Putting(spool)
        await putting.accepts()
        await asyncio.to_thread(pair.fail_over, fault)
        await putting.accepts()
        assert await spool.find(min(putting.accepted)) is not None, "and what is read is read there"
        await hears(pair, heard)
        await asyncio.to_thread(pair.standby.follow, pair.primary)
        refused = len(putting.refused)
        await putting.accepts()
        assert len(putting.refused) == refused, "the one that came back is no reason to leave"
        assert await putting.end() <= pair.ids(pair.primary)
        assert all("ML_SPOOL_URL" in each and PASSWORD not in each for each in putting.refused)


async def test_a_primary_that_is_stopped_in_order_is_left_by_spool_workers_and_application(pair: Pair) -> None:
    claims = SqlClaims(pair.url())
    assert await asyncio.to_thread(claims.claim, Claim("mine", "me", 0), SOON) is None
    async with asyncio.timeout(SOON), opened(pair.url()) as (spool, heard):
        add(pair, "before")
        putting = Putting(spool)
        await putting.accepts()
        await asyncio.to_thread(pair.fail_over, PrivatePostgres.stop)
        await putting.accepts()
        assert {*await putting.end(), "before"} <= pair.ids(pair.primary)
        heard.clear()
        while not heard:
            add(pair, f"told-{next(NAMES)}")
            await asyncio.sleep(0.1)
    assert await asyncio.to_thread(claimed, claims, Claim("mine", "you", 0)) == Found(done=False, turn=0)
    claims.close()


def add(pair: Pair, task_id: str) -> None:
    """As an application does, in a transaction of its own."""
    outbox = Outbox(Settings.load(ml_spool_url=pair.url()))
    with psycopg.connect(pair.url(), target_session_attrs="read-write") as connection:
        outbox.add(connection, Task(task_type="embed_vectors", payload={"share_id": "s", "content": "t"}, id=task_id))


def claimed(claims: SqlClaims, claim: Claim) -> Found | None:
    """The first call may meet the fault: a worker's task is then tried again by Celery."""
    try:
        return claims.claim(claim, SOON)
    except OnceUnavailable:
        return claims.claim(claim, SOON)
