"""What is special to the shared spool: several instances at once, the races between them, a server with faults."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import psycopg
import pytest

from mlproducer.errors import SettingsError, SpoolUnavailable
from mlproducer.rows import Again, Bury, Record, SpoolRow
from mlproducer.spool import open_spool
from mlproducer.spool.columns import outbox_columns
from mlproducer.spool.migrations import VERSION
from mlproducer.spool.schema import CHANNEL
from mlproducer.spool.sql import PostgresSpool
from mlproducer.task import Envelope
from mlproducer.testing.rabbitmq import free_port
from mlproducer.testing.spool_contract import DONE, NOW, claim, confirm, is_as_put, is_confirmed, row, settle
from private_postgres import PASSWORD, USER, PrivatePostgres

SOON = 20.0
"""Seconds within which what must happen happens, on a machine that does much else."""


@pytest.fixture
async def pair(postgres_schema_url: str) -> AsyncIterator[tuple[PostgresSpool, PostgresSpool]]:
    """Two instances on one database."""
    first, second = PostgresSpool(postgres_schema_url), PostgresSpool(postgres_schema_url)
    await first.open()
    await second.open()
    yield first, second
    await first.close()
    await second.close()


@contextlib.contextmanager
def transaction(url: str) -> Iterator[psycopg.Cursor[Any]]:
    """Of somebody else: committed at the end of the block."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        yield cursor


def put_as_the_outbox_does(cursor: psycopg.Cursor[Any], envelope: Envelope) -> None:
    columns = {name.rstrip("_"): value for name, value in outbox_columns(envelope, NOW - 1e8).items()}
    names, marks = ", ".join(columns), ", ".join(f"%({name})s" for name in columns)
    cursor.execute(f"INSERT INTO mlproducer_waiting ({names}) VALUES ({marks})".encode(), columns)  # noqa: S608  # our own names
    cursor.execute("SELECT pg_notify(%s, '')", (CHANNEL,))


async def is_waiting(task: asyncio.Future[Any]) -> bool:
    await asyncio.wait([task], timeout=0.3)
    return not task.done()


# Several instances


async def test_a_connection_whose_set_up_fails_is_closed(
    postgres_schema_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def fails(self: psycopg.Connection[Any], *_: object) -> None:
        made.append(self)
        raise psycopg.OperationalError("the server went away")

    monkeypatch.setattr(psycopg.Connection, "execute", fails)
    with pytest.raises(SpoolUnavailable, match="went away"):
        await PostgresSpool(postgres_schema_url).open()
    assert {connection.closed for connection in made} == {True}
    made.clear()
    monkeypatch.undo()
    gc.collect()  # a descriptor of ours that is left would be told of here


async def test_instances_that_open_a_new_database_at_once_all_find_the_tables(postgres_schema_url: str) -> None:
    spools = [PostgresSpool(postgres_schema_url) for _ in range(6)]
    await asyncio.gather(*(spool.open() for spool in spools))
    assert await spools[0].put(row("a"))
    assert is_as_put(await spools[5].find("a"), row("a"))
    await asyncio.gather(*(spool.close() for spool in spools))


async def test_an_instance_that_opens_leaves_the_leases_of_others_alone(
    pair: tuple[PostgresSpool, PostgresSpool], postgres_schema_url: str
) -> None:
    await pair[0].put(row("a"))
    (lease,) = await pair[0].lease(1, hold=60)
    third = PostgresSpool(postgres_schema_url)
    await third.open()
    assert not await third.lease(1, hold=60)
    assert await settle(pair[0], lease, DONE)
    await third.close()


async def test_of_two_instances_that_put_the_same_ids_one_stores_each(
    pair: tuple[PostgresSpool, PostgresSpool],
) -> None:
    ids = [f"t{n}" for n in range(400)]
    puts = [spool.put(row(task_id)) for task_id in ids for spool in pair]
    reverse = [spool.put(row(task_id)) for task_id in reversed(ids) for spool in pair]
    stored = await asyncio.gather(*puts, *reverse)
    assert stored.count(True) == 400
    sizes = await asyncio.gather(*(spool.measure() for spool in pair))
    assert [size.tasks for size in sizes] == [400, 400]


async def test_of_two_instances_that_lease_at_once_each_has_rows_of_its_own(
    pair: tuple[PostgresSpool, PostgresSpool],
) -> None:
    await asyncio.gather(*(pair[0].put(row(f"t{n}")) for n in range(300)))
    leased = await asyncio.gather(*(spool.lease(100, hold=60) for spool in pair * 2))
    taken = [lease.row.envelope.task_id for leases in leased for lease in leases]
    assert len(taken) == len(set(taken)) == 300
    held = await asyncio.gather(*(pair[1].settle([(lease, DONE) for lease in leases]) for leases in leased))
    assert all(all(answers) for answers in held)
    assert (await pair[0].measure()).tasks == 0, "the sum of all writers' totals"


async def test_a_row_that_another_is_leasing_at_this_moment_is_passed_over(
    pair: tuple[PostgresSpool, PostgresSpool], postgres_schema_url: str
) -> None:
    await pair[0].put(row("a", delay=-2))
    await pair[0].put(row("b", delay=-1))
    with transaction(postgres_schema_url) as other:
        other.execute("SELECT 1 FROM mlproducer_waiting WHERE task_id = 'a' FOR UPDATE")
        (lease,) = await pair[0].lease(10, hold=60)
    assert lease.row.envelope.task_id == "b"


# Races, each stopped in its midst


async def test_a_put_that_meets_a_settle_in_its_midst_finds_the_record(
    pair: tuple[PostgresSpool, PostgresSpool], postgres_schema_url: str
) -> None:
    await pair[0].put(row("a"))
    with transaction(postgres_schema_url) as other:
        other.execute("DELETE FROM mlproducer_waiting WHERE task_id = 'a'")
        other.execute("INSERT INTO mlproducer_records VALUES ('a', 't', '', 0, 9e9, 1, 0, NULL, '')")
        put = asyncio.ensure_future(pair[0].put(row("a")))
        assert await is_waiting(put)
    assert await put is False, "it was published: a second row would publish it again"
    assert isinstance(await pair[0].find("a"), Record)


async def test_a_put_that_meets_a_confirm_in_its_midst_finds_the_record(
    pair: tuple[PostgresSpool, PostgresSpool], postgres_schema_url: str
) -> None:
    await pair[0].claim(claim("a"), hold=10)
    with transaction(postgres_schema_url) as other:
        other.execute("UPDATE mlproducer_records SET confirmed_at = 1, held_until = NULL")
        put = asyncio.ensure_future(pair[0].put(row("a")))
        assert await is_waiting(put)
    assert await put is False
    assert (await pair[0].measure()).tasks == 0


async def test_a_put_that_meets_a_replay_in_its_midst_finds_the_row(
    pair: tuple[PostgresSpool, PostgresSpool], postgres_schema_url: str
) -> None:
    await pair[0].put(row("a"))
    (lease,) = await pair[0].lease(1, hold=60)
    await settle(pair[0], lease, Bury(NOW, 3, "nacked", None, "why"))
    with transaction(postgres_schema_url) as other:
        other.execute("DELETE FROM mlproducer_dead_letters")
        put_as_the_outbox_does(other, row("a").envelope)
        put = asyncio.ensure_future(pair[0].put(row("a")))
        assert await is_waiting(put)
    assert await put is False
    assert isinstance(await pair[0].find("a"), SpoolRow)


async def test_a_claim_that_meets_a_claim_in_its_midst_is_told_of_it(
    pair: tuple[PostgresSpool, PostgresSpool], postgres_schema_url: str
) -> None:
    with transaction(postgres_schema_url) as other:
        other.execute("INSERT INTO mlproducer_records VALUES ('a', 't', '', 0, 9e9, NULL, 0, 8e9, 'theirs')")
        asked = asyncio.ensure_future(pair[0].claim(claim("a"), hold=10))
        assert await is_waiting(asked)
    assert await asked == Record("a", "t", b"", 0.0, 9e9, held_until=8e9, token="theirs")


async def test_a_claim_that_meets_one_that_is_then_released_wins(
    pair: tuple[PostgresSpool, PostgresSpool], postgres_schema_url: str
) -> None:
    await pair[0].claim(claim("a", token="theirs"), hold=10)
    with transaction(postgres_schema_url) as other:
        other.execute("DELETE FROM mlproducer_records")
        asked = asyncio.ensure_future(pair[0].claim(claim("a"), hold=10))
        assert await is_waiting(asked)
    assert await asked is None
    known = await pair[1].find("a")
    assert isinstance(known, Record)
    assert known.token == "me"


async def test_a_claim_left_behind_by_a_put_of_the_same_moment_means_nothing(
    pair: tuple[PostgresSpool, PostgresSpool], postgres_schema_url: str
) -> None:
    with transaction(postgres_schema_url) as other:
        # The put saw no claim, since that was not committed; the claim sees no row for the same reason.
        put_as_the_outbox_does(other, row("a").envelope)
        assert await pair[0].claim(claim("a"), hold=10) is None
    assert isinstance(await pair[0].find("a"), SpoolRow)
    assert isinstance(await pair[1].claim(claim("a", token="you"), hold=10), SpoolRow)
    await confirm(pair[0], "a")
    assert isinstance(await pair[0].find("a"), SpoolRow), "what waits is published by the drain, which tells of it"
    (lease,) = await pair[0].lease(1, hold=60)
    assert await settle(pair[0], lease, DONE)
    assert is_confirmed(await pair[0].find("a"), "a", accepted_at=NOW - 1e8)


async def test_an_outbox_row_that_stays_uncommitted_holds_up_only_its_own_id(postgres_schema_url: str) -> None:
    spool = PostgresSpool(f"{postgres_schema_url}&timeout=3")
    await spool.open()
    with transaction(postgres_schema_url) as other:
        put_as_the_outbox_does(other, row("theirs").envelope)
        calls = [spool.put(row(task_id)) for task_id in ("a", "theirs", "b")]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [answers[0], answers[2]] == [True, True]
        assert isinstance(answers[1], SpoolUnavailable)
        assert "outbox" in str(answers[1])
        assert (await spool.measure()).tasks == 2, "the user's transaction locks no totals"
    assert await spool.put(row("theirs")) is False
    assert (await spool.measure()).tasks == 3
    await spool.close()


async def test_a_deadlock_that_the_server_ended_is_tried_again(
    pair: tuple[PostgresSpool, PostgresSpool], postgres_schema_url: str
) -> None:
    with transaction(postgres_schema_url) as other:
        other.execute("CREATE SEQUENCE times")
        fails_when(other, "nextval('times') = 1", "40P01")
    assert await pair[0].put(row("a"))


# Hearing of others


async def heard(ears: asyncio.Queue[None]) -> float:
    """Seconds until it was."""
    start = time.monotonic()
    await asyncio.wait_for(ears.get(), SOON)
    return time.monotonic() - start


async def test_rows_of_others_are_heard_of_and_ones_own_are_not(postgres_schema_url: str) -> None:
    ears: asyncio.Queue[None] = asyncio.Queue()
    mine, other = PostgresSpool(postgres_schema_url), PostgresSpool(postgres_schema_url)
    mine.watch(lambda: ears.put_nowait(None))
    await mine.open()
    await other.open()
    await heard(ears)  # it listens from now on
    await mine.put(row("mine"))
    await other.put(row("a"))
    await heard(ears)
    with transaction(postgres_schema_url) as users:
        put_as_the_outbox_does(users, row("b").envelope)
        await asyncio.sleep(0.2)
        assert ears.empty(), "nothing is committed, and our own put was not told to us"
    await heard(ears)
    await other.close()
    await mine.close()


async def test_a_listener_whose_connection_was_lost_listens_again(postgres: PrivatePostgres) -> None:
    database = postgres.new_database()
    ears: asyncio.Queue[None] = asyncio.Queue()
    mine, other = PostgresSpool(postgres.url(database)), PostgresSpool(postgres.url(database))
    mine.watch(lambda: ears.put_nowait(None))
    await mine.open()
    await other.open()
    await heard(ears)
    listeners = f"FROM pg_stat_activity WHERE datname = '{database}' AND query = 'SHOW transaction_read_only'"
    assert postgres.sql(f"SELECT pg_terminate_backend(pid) {listeners}") == [(True,)]
    await heard(ears)  # it may have missed some
    await other.put(row("a"))
    await heard(ears)
    await other.close()
    await mine.close()


# Versions and rights


@pytest.mark.usefixtures("pair")
async def test_tables_of_a_newer_version_are_refused(postgres_schema_url: str) -> None:
    with transaction(postgres_schema_url) as newer:
        newer.execute("UPDATE mlproducer_schema_version SET version = version + 1")
    with pytest.raises(SpoolUnavailable, match=f"version {VERSION + 1}, this one knows {VERSION}"):
        await PostgresSpool(postgres_schema_url).open()


async def test_a_visitor_makes_no_tables_and_uses_those_that_are_there(
    postgres: PrivatePostgres, postgres_url: str
) -> None:
    with pytest.raises(SpoolUnavailable, match="no producer has opened it yet"):
        await open_spool(postgres_url, owner=False).open()
    tables = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'mlproducer%'"
    assert postgres.sql(tables, postgres_url.rpartition("/")[2]) == [(0,)]
    owner, visitor = PostgresSpool(postgres_url), open_spool(postgres_url, owner=False)
    await owner.open()
    await owner.put(row("a"))
    await visitor.open()
    assert is_as_put(await visitor.find("a"), row("a"))
    await visitor.close()
    await owner.close()


async def test_a_user_who_may_not_make_tables_uses_those_that_are_there(
    postgres: PrivatePostgres, postgres_url: str
) -> None:
    database = postgres_url.rpartition("/")[2]
    owner = PostgresSpool(postgres_url)
    await owner.open()
    await owner.close()
    with transaction(postgres_url) as admin:
        admin.execute(f"CREATE ROLE {database}_app LOGIN PASSWORD 'app'".encode())
        admin.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {database}_app".encode())
    app = PostgresSpool(postgres.url_as(f"{database}_app", "app", database))
    await app.open()
    assert await app.put(row("a"))
    await app.close()


async def test_every_commit_is_on_the_disk_whatever_the_database_says(
    postgres: PrivatePostgres, postgres_url: str
) -> None:
    postgres.sql(f"ALTER DATABASE {postgres_url.rpartition('/')[2]} SET synchronous_commit = off")
    spool = PostgresSpool(postgres_url)
    await spool.open()
    assert spool._store is not None
    with spool._store.writing.connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    await spool.close()


# Faults


def fails_when(cursor: psycopg.Cursor[Any], condition: str, sqlstate: str) -> None:
    """Each INSERT of a waiting row fails as a server in that state says it."""
    cursor.execute(
        f"""
        CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN IF {condition} THEN RAISE EXCEPTION 'could not do it' USING ERRCODE = '{sqlstate}'; END IF;
        RETURN NEW; END $$;
        CREATE TRIGGER fails BEFORE INSERT ON mlproducer_waiting FOR EACH ROW EXECUTE FUNCTION fails()
        """.encode()
    )


@pytest.mark.parametrize(("sqlstate", "hint"), [("53100", "disk is full"), ("25006", "primary"), ("57014", "timeout")])
async def test_a_server_that_takes_no_rows_refuses_new_ones_keeps_the_old_and_service_resumes(
    pair: tuple[PostgresSpool, PostgresSpool], postgres_schema_url: str, sqlstate: str, hint: str
) -> None:
    await pair[0].put(row("before"))
    with transaction(postgres_schema_url) as admin:
        fails_when(admin, "true", sqlstate)
    answers = await asyncio.gather(*(pair[0].put(row(f"t{n}")) for n in range(20)), return_exceptions=True)
    assert all(
        (isinstance(answer, SpoolUnavailable) and "ML_SPOOL_URL" in str(answer)) or hint in str(answer)
        for answer in answers
    )
    assert len({id(answer) for answer in answers}) == 20, "each caller gets an error of its own"
    assert (await pair[0].measure()).tasks == 1
    with transaction(postgres_schema_url) as admin:
        admin.execute("DROP FUNCTION fails CASCADE")
    assert await pair[0].put(row("after"))


async def test_what_fails_one_request_fails_only_that_one(pair: tuple[PostgresSpool, PostgresSpool]) -> None:
    spool = pair[0]
    await spool.put(row("held"))
    (lease,) = await spool.lease(1, hold=60)
    answers = await asyncio.gather(
        spool.put(row("a")),
        spool.put(row("bad", delay=float("nan"))),
        settle(spool, lease, Again(float("nan"), 1, "nacked", "", alone=False)),
        settle(spool, lease, DONE),
        spool.put(row("\ud800")),
        spool.put(row("b")),
        return_exceptions=True,
    )
    assert [answer if isinstance(answer, bool) else type(answer) for answer in answers] == [
        True,
        SpoolUnavailable,
        SpoolUnavailable,
        True,
        SpoolUnavailable,
        True,
    ]
    assert {found.task_id for found in await spool.waiting(limit=10)} == {"a", "b"}
    assert (await spool.measure()).tasks == 2


async def test_errors_do_not_quote_what_was_to_be_stored(pair: tuple[PostgresSpool, PostgresSpool]) -> None:
    with pytest.raises(SpoolUnavailable) as refused:
        await pair[0].put(
            row("a", delay=float("nan"), text="s3cr" + "et")
        )  # in two parts: a traceback quotes this line
    told = "".join(traceback.format_exception(refused.value))
    assert "check constraint" in told, "the cause is there"
    assert "s3cret" not in told


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda server: server.url_as(USER, "wr0ng", "postgres"), "user name or password is wrong"),
        (lambda server: server.url("nowhere"), "does not exist"),
        (lambda server: server.url_as("nobody", "wr0ng", "postgres"), "ML_SPOOL_URL"),
        (lambda server: server.url("postgres").replace(str(server.port), str(free_port())), "is the server up"),
        (lambda server: server.url("postgres").replace("127.0.0.1", "nowhere.invalid"), "is the host right"),
    ],
    ids=["password", "database", "user", "port", "host"],
)
async def test_a_server_that_lets_nobody_in_is_named_with_the_cause_and_no_password(
    postgres: PrivatePostgres, change: Callable[[PrivatePostgres], str], hint: str
) -> None:
    spool = PostgresSpool(change(postgres))
    with pytest.raises(SpoolUnavailable, match=hint) as refused:
        await spool.open()
    told = "".join(traceback.format_exception(refused.value)) + repr(spool)
    assert "ML_SPOOL_URL" in told
    assert PASSWORD not in told
    assert "wr0ng" not in told


def test_without_the_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SettingsError, match=r"pip install 'mlproducer\[postgresql\]'"):
        open_spool("postgresql://h/db")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_a_postgresql_url_is_taken_and_its_secrets_are_not_shown(scheme: str) -> None:
    spool = open_spool(f"{scheme}://someone:{'s3cr' + 'et'}@db.example:5433/tasks?sslmode=require&timeout=2")
    assert repr(spool) == "<PostgresSpool postgresql://db.example:5433/tasks closed>"


async def test_connections_that_the_server_ended_meanwhile_are_replaced_unnoticed(
    postgres: PrivatePostgres, postgres_url: str
) -> None:
    spool = PostgresSpool(postgres_url)
    await spool.open()
    await spool.put(row("a"))
    await spool.measure()
    database = postgres_url.rpartition("/")[2]
    connections = f"FROM pg_stat_activity WHERE datname = '{database}'"
    ended = postgres.sql(f"SELECT pg_terminate_backend(pid) {connections}")
    assert len(ended) >= 2
    assert await spool.put(row("b"))
    assert (await spool.measure()).tasks == 2
    await spool.close()


async def test_a_server_killed_under_puts_loses_no_row_that_was_answered_and_service_resumes(
    own_postgres: PrivatePostgres,
) -> None:
    spool = PostgresSpool(own_postgres.url(own_postgres.new_database(), timeout=5))
    await spool.open()
    stored: set[str] = set()
    refused: list[SpoolUnavailable] = []
    ended = asyncio.Event()

    async def caller(name: int) -> None:
        n = 0
        while not ended.is_set():
            n += 1
            try:
                if await spool.put(row(f"{name}-{n}", size=200)):
                    stored.add(f"{name}-{n}")
            except SpoolUnavailable as error:
                refused.append(error)
                await asyncio.sleep(0.02)

    callers = [asyncio.create_task(caller(name)) for name in range(50)]
    for _ in range(3):
        before = len(stored)
        await until(lambda before=before: len(stored) > before + 500)  # type: ignore[misc]  # its default binds it
        faults = len(refused)
        await asyncio.to_thread(own_postgres.kill)
        await until(lambda faults=faults: len(refused) > faults)  # type: ignore[misc]  # as above
        await asyncio.to_thread(own_postgres.start)
    before = len(stored)
    await until(lambda: len(stored) > before + 500)
    ended.set()
    await asyncio.gather(*callers)
    assert all("ML_SPOOL_URL" in str(error) for error in refused)
    there = {found.task_id for found in await spool.waiting(limit=1_000_000)}
    assert stored <= there
    size = await spool.measure()
    assert size.tasks == len(there), "what was committed unheard is counted too"
    await spool.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # of the callers' own tallies
            await asyncio.sleep(0.01)


async def refusal(call: Awaitable[object]) -> tuple[SpoolUnavailable, float]:
    start = time.monotonic()
    with pytest.raises(SpoolUnavailable) as refused:
        await call
    return refused.value, time.monotonic() - start


async def test_a_server_that_hangs_holds_nobody_for_ever_and_service_resumes(own_postgres: PrivatePostgres) -> None:
    url = own_postgres.url(own_postgres.new_database(), timeout=2)
    spool = PostgresSpool(url)
    await spool.open()
    await spool.put(row("before"))
    await spool.measure()
    own_postgres.pause()
    calls = [spool.put(row("a")), spool.find("before"), spool.lease(1, hold=60), spool.measure()]
    for error, took in await asyncio.gather(*map(refusal, calls)):
        assert "ML_SPOOL_URL" in str(error)
        assert took < SOON
    other = PostgresSpool(url)
    error, took = await refusal(other.open())
    assert took < SOON
    own_postgres.resume()
    assert await spool.put(row("b"))
    assert is_as_put(await spool.find("before"), row("before"))
    # What was under way when the server was paused may have been committed unheard: then it is found.
    await spool.put(row("a"))
    assert {found.task_id for found in await spool.waiting(limit=10)} == {"before", "a", "b"}
    await spool.close()


async def test_a_spool_on_a_server_that_is_gone_can_still_be_closed(own_postgres: PrivatePostgres) -> None:
    spool = PostgresSpool(own_postgres.url(own_postgres.new_database(), timeout=2))
    spool.watch(lambda: None)
    await spool.open()
    await spool.put(row("a"))
    await asyncio.to_thread(own_postgres.kill)
    await refusal(spool.put(row("b")))
    async with asyncio.timeout(SOON):
        await spool.close()
    with pytest.raises(SpoolUnavailable, match="not open"):
        await spool.put(row("c"))
