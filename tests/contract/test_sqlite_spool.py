"""What is special to the embedded spool: the file, its owner, its versions, its faults."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import traceback
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event

from mlproducer.errors import SettingsError, SpoolUnavailable
from mlproducer.rows import Again, Bury, DeadFilter, DeadLetter, SpoolRow
from mlproducer.spool import open_spool
from mlproducer.spool.columns import outbox_columns
from mlproducer.spool.migrations import STEPS, VERSION
from mlproducer.spool.schema import metadata
from mlproducer.spool.sql import SqliteSpool
from mlproducer.task import Envelope
from mlproducer.testing.spool_contract import DONE, NOW, audit, claim, confirm, is_as_put, row, settle


async def _filled(path: Path, count: int = 3) -> None:
    spool = SqliteSpool(path)
    await spool.open()
    for n in range(count):
        await spool.put(row(f"t{n}"))
    await spool.close()


async def test_rows_are_there_after_the_file_is_opened_again(tmp_path: Path) -> None:
    await _filled(tmp_path / "s.db")
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
    assert (await spool.measure()).tasks == 3
    assert is_as_put(await spool.find("t1"), row("t1"))
    await spool.close()


async def test_leases_of_a_dead_owner_end_when_the_next_one_opens_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    await _filled(path)
    first = SqliteSpool(path)
    await first.open()
    (lease, *_) = await first.lease(3, hold=3600)
    await first.close()
    second = SqliteSpool(path)
    await second.open()
    assert len(await second.lease(3, hold=60)) == 3
    assert not await settle(second, lease, DONE)
    await second.close()


@pytest.mark.parametrize("after", [0.0, 0.001, 0.01, 0.05])
async def test_a_cancelled_open_does_not_keep_the_file(tmp_path: Path, after: float) -> None:
    first = SqliteSpool(tmp_path / "s.db")
    opening = asyncio.create_task(first.open())
    await asyncio.sleep(after)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    await first.close()
    second = SqliteSpool(tmp_path / "s.db")
    async with asyncio.timeout(5):
        while True:
            try:
                await second.open()
                break
            except SpoolUnavailable:
                await asyncio.sleep(0.01)  # its thread is just closing it
    await second.close()


async def test_a_cancelled_close_still_commits_what_is_queued_and_lets_go(tmp_path: Path) -> None:
    first = SqliteSpool(tmp_path / "s.db")
    await first.open()
    puts = [asyncio.ensure_future(first.put(row(f"t{n}"))) for n in range(50)]
    await asyncio.sleep(0)
    closing_ = asyncio.create_task(first.close())
    await asyncio.sleep(0)
    closing_.cancel()
    assert await asyncio.gather(*puts) == [True] * 50
    second = SqliteSpool(tmp_path / "s.db")
    async with asyncio.timeout(5):
        while True:
            try:
                await second.open()
                break
            except SpoolUnavailable:
                await asyncio.sleep(0.01)
    assert (await second.measure()).tasks == 50
    await second.close()


async def test_a_visitor_lists_and_replays_next_to_the_owner(tmp_path: Path) -> None:
    owner = SqliteSpool(tmp_path / "s.db")
    await owner.open()
    await owner.put(row("a"))
    (lease,) = await owner.lease(1, hold=60)
    await settle(owner, lease, Bury(NOW, 3, "nacked", None, "why"))
    visitor = open_spool(f"sqlite:///{tmp_path / 's.db'}", owner=False)
    await visitor.open()
    assert len(await visitor.dead(DeadFilter(), limit=10)) == 1
    assert await visitor.replay(audit("a")) == 1
    await visitor.close()
    assert len(await owner.lease(1, hold=60)) == 1, "the owner finds what the visitor replayed"
    await owner.close()


async def test_a_visitor_of_no_spool_is_told_so_and_makes_none(tmp_path: Path) -> None:
    visitor = SqliteSpool(tmp_path / "s.db", owner=False)
    with pytest.raises(SpoolUnavailable, match="there is no spool"):
        await visitor.open()
    assert not list(tmp_path.iterdir())  # noqa: ASYNC240  # a test of its own loop


async def test_the_file_is_for_its_user_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "s.db"
    await _filled(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.touch()
    path.chmod(0o644)
    await _filled(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_every_commit_is_on_the_disk(tmp_path: Path) -> None:
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
    assert spool._store is not None
    with spool._store.writing.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    await spool.close()


VERSION_1 = (
    """
    CREATE TABLE waiting (
        task_id TEXT PRIMARY KEY NOT NULL, task_type TEXT NOT NULL, routing_key TEXT NOT NULL,
        properties BLOB NOT NULL, body BLOB NOT NULL, size INTEGER NOT NULL, expires_at REAL, eta REAL,
        accepted_at REAL NOT NULL, due_at REAL NOT NULL, free_at REAL NOT NULL, token TEXT,
        attempts INTEGER NOT NULL, cause TEXT NOT NULL, text TEXT NOT NULL, alone INTEGER NOT NULL
    )
    """,
    "CREATE INDEX waiting_free_at ON waiting (free_at)",
    "CREATE INDEX waiting_accepted_at ON waiting (accepted_at)",
    """
    CREATE TABLE dead_letters (
        task_id TEXT PRIMARY KEY NOT NULL, task_type TEXT NOT NULL, routing_key TEXT NOT NULL,
        properties BLOB NOT NULL, body BLOB NOT NULL, size INTEGER NOT NULL, expires_at REAL, eta REAL,
        accepted_at REAL NOT NULL, died_at REAL NOT NULL, attempts INTEGER NOT NULL, reason TEXT NOT NULL,
        code INTEGER, text TEXT NOT NULL
    )
    """,
    "CREATE INDEX dead_letters_died_at ON dead_letters (died_at)",
    "CREATE TABLE totals (id INTEGER PRIMARY KEY, tasks INTEGER NOT NULL, bytes INTEGER NOT NULL, dead INTEGER NOT NULL)",
    "CREATE TABLE schema_version (version INTEGER NOT NULL)",
    "INSERT INTO schema_version VALUES (1)",
    # A row that is held, a dead letter, and what they come to.
    "INSERT INTO waiting VALUES ('old','embed_vectors','ml.embed',x'00',x'01',2,NULL,NULL,1,2,9e9,'t',0,'nacked','✓',1)",
    "INSERT INTO dead_letters VALUES ('dead','embed_vectors','q',x'00',x'02',2,NULL,7,1,3,3,'nacked',312,'why')",
    "INSERT INTO totals VALUES (1, 1, 2, 1)",
)
VERSION_2 = (
    *VERSION_1,
    "CREATE INDEX waiting_due_at ON waiting (due_at)",
    "CREATE INDEX waiting_held ON waiting (token) WHERE token IS NOT NULL",
    "UPDATE schema_version SET version = 2",
)
OLDER = pytest.mark.parametrize("older", [VERSION_1, VERSION_2], ids=["version 1", "version 2"])


def _write(path: Path, statements: Sequence[str]) -> None:
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


@OLDER
async def test_an_older_file_is_brought_up_with_its_rows_and_dead_letters_whole(
    tmp_path: Path, older: tuple[str, ...]
) -> None:
    path = tmp_path / "s.db"
    _write(path, older)
    spool = SqliteSpool(path)
    await spool.open()
    size = await spool.measure()
    assert (size.tasks, size.bytes, size.dead) == (1, 2, 1)
    envelope = Envelope("dead", "embed_vectors", "q", b"\x00", b"\x02", None, 7.0)
    assert await spool.find("dead") == DeadLetter(envelope, 1.0, 3.0, 3, "nacked", 312, "why")
    (lease,) = await spool.lease(5, hold=60)
    envelope = Envelope("old", "embed_vectors", "ml.embed", b"\x00", b"\x01")
    assert lease.row == SpoolRow(envelope, 1.0, 2.0, 0, "nacked", "✓", alone=True)
    assert await settle(spool, lease, DONE)
    assert await spool.replay(audit("dead")) == 1
    await spool.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT version FROM mlproducer_schema_version").fetchall() == [(VERSION,)]


@OLDER
async def test_in_an_older_file_too_a_task_is_due_from_its_eta_on(tmp_path: Path, older: tuple[str, ...]) -> None:
    path = tmp_path / "s.db"
    ahead = "UPDATE waiting SET eta = 9e9, due_at = 9e9, free_at = 9e9, token = NULL"
    for statements, first_due in ((older, 1.0), ((*older, ahead), 9e9)):
        path.unlink(missing_ok=True)
        _write(path, statements)
        spool = SqliteSpool(path)
        await spool.open()
        assert (await spool.measure()).first_due_at == first_due
        await spool.close()


@OLDER
async def test_an_older_file_becomes_the_same_as_a_new_one(tmp_path: Path, older: tuple[str, ...]) -> None:
    _write(tmp_path / "old.db", older)
    schemas = []
    for path in (tmp_path / "old.db", tmp_path / "new.db"):
        spool = SqliteSpool(path)
        await spool.open()
        await spool.close()
        with closing(sqlite3.connect(path)) as db:
            schemas.append(set(db.execute("SELECT type, name, tbl_name FROM sqlite_master")))
            for table in metadata.sorted_tables:
                columns = [found[1] for found in db.execute(f"PRAGMA table_info({table.name})")]
                assert columns == [column.name for column in table.columns]
    assert schemas[0] == schemas[1]


async def test_a_step_that_fails_leaves_the_older_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    _write(path, VERSION_1)
    half = ("CREATE TABLE half (id INTEGER)", "DROP TABLE nobody")
    with monkeypatch.context() as patch:
        patch.setitem(STEPS, "sqlite", (STEPS["sqlite"][0], half))
        with pytest.raises(SpoolUnavailable):
            await SqliteSpool(path).open()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT version FROM schema_version").fetchall() == [(1,)]
        assert not db.execute("SELECT 1 FROM sqlite_master WHERE name IN ('half', 'waiting_due_at')").fetchall()
    spool = SqliteSpool(path)
    await spool.open()
    assert await spool.find("old") is not None
    await spool.close()


async def test_a_visitor_does_not_bring_an_older_file_up(tmp_path: Path) -> None:
    _write(tmp_path / "s.db", VERSION_1)
    with pytest.raises(SpoolUnavailable, match="older mlproducer"):
        await SqliteSpool(tmp_path / "s.db", owner=False).open()


async def test_in_a_users_own_database_the_spool_leaves_the_users_tables_alone(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    mine = ("CREATE TABLE waiting (guest TEXT)", "CREATE TABLE schema_version (version INTEGER)")
    _write(path, (*mine, "INSERT INTO waiting VALUES ('ada')", "INSERT INTO schema_version VALUES (77)"))
    await _filled(path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT * FROM waiting").fetchall() == [("ada",)]
        assert db.execute("SELECT * FROM schema_version").fetchall() == [(77,)]


async def test_a_visitor_of_a_database_without_a_spool_is_told_so(tmp_path: Path) -> None:
    _write(tmp_path / "app.db", ("CREATE TABLE guests (name TEXT)",))
    with pytest.raises(SpoolUnavailable, match="no producer has opened it yet"):
        await SqliteSpool(tmp_path / "app.db", owner=False).open()


def _put_as_the_outbox_does(db: sqlite3.Connection, envelope: Envelope) -> None:
    columns = {name.rstrip("_"): value for name, value in outbox_columns(envelope, NOW - 1e8).items()}
    names, marks = ", ".join(columns), ", ".join(f":{name}" for name in columns)
    db.execute(f"INSERT INTO mlproducer_waiting ({names}) VALUES ({marks})", columns)  # noqa: S608  # our own names


async def test_what_the_users_own_transaction_put_is_measured_and_drained(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    spool = SqliteSpool(path)
    await spool.open()
    await spool.put(row("ours"))
    with closing(sqlite3.connect(path)) as db:
        _put_as_the_outbox_does(db, row("theirs", size=30).envelope)
        assert (await spool.measure()).tasks == 1, "not committed yet"
        db.commit()
    size = await spool.measure()
    assert (size.tasks, size.bytes) == (2, 10 + 10 + 30 + 10)
    leases = await spool.lease(9, hold=60)
    assert {lease.row.envelope.task_id for lease in leases} == {"ours", "theirs"}
    assert (await spool.measure()).tasks == 2, "counted once, leased or not"
    assert all(await spool.settle([(lease, DONE) for lease in leases]))
    size = await spool.measure()
    assert (size.tasks, size.bytes) == (0, 0)
    await spool.close()


async def test_no_question_of_each_second_reads_the_whole_table(tmp_path: Path) -> None:
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
    assert spool._store is not None
    asked: list[tuple[str, Any]] = []
    for engine in (spool._store.reading, spool._store.writing):
        event.listen(engine, "before_cursor_execute", lambda *call: asked.append((call[2], call[3])))
    await spool.put(row("a"))
    await spool.measure()
    await spool.find("a")
    await spool.waiting(limit=10)
    for expired in (False, True):
        leases = await spool.lease(10, hold=10, expired=expired)
        await spool.settle([(lease, Again(0, 1, "nacked", "", alone=False)) for lease in leases])
    await spool.claim(claim("b"), hold=10)
    await confirm(spool, "b")
    await spool.forget(limit=10)
    with spool._store.reading.connect() as connection:
        for statement, given in asked:
            if statement.startswith(("SELECT", "UPDATE", "DELETE")) and not isinstance(given, list):
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given).all()
                steps = [str(step[3]) for step in plan]
                whole = [step for step in steps if step.startswith("SCAN mlproducer_") and "INDEX" not in step]
                assert all(step == "SCAN mlproducer_totals" for step in whole), (statement, steps)
    assert len(asked) > 15
    await spool.close()


async def test_an_id_that_the_outbox_put_although_it_is_dead_or_confirmed_ends_in_one_place(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    spool = SqliteSpool(path)
    await spool.open()
    bury = Bury(NOW, 3, "nacked", None, "why")
    for task_id, verdict in (("dead", bury), ("done", DONE)):
        await spool.put(row(task_id))
        (lease,) = await spool.lease(1, hold=60)
        await settle(spool, lease, verdict)
    with closing(sqlite3.connect(path)) as db:
        for task_id in ("dead", "done"):
            _put_as_the_outbox_does(db, row(task_id).envelope)
        db.commit()
    assert isinstance(await spool.find("dead"), SpoolRow)
    assert await spool.replay(audit("dead")) == 0, "it waits already"
    leases = await spool.lease(2, hold=60)
    assert all(await spool.settle([(lease, bury) for lease in leases]))
    size = await spool.measure()
    assert (size.tasks, size.bytes, size.dead) == (0, 0, 2)
    assert await spool.count_dead(DeadFilter(reason="nacked")) == 2
    await spool.close()


async def test_a_file_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    await _filled(path)
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("UPDATE mlproducer_schema_version SET version = ?", (VERSION + 1,))
        newer.commit()
    with pytest.raises(SpoolUnavailable, match="newer mlproducer"):
        await SqliteSpool(path).open()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM mlproducer_waiting").fetchone() == (3,)


def _pragma(spool: SqliteSpool, pragma: str) -> None:
    assert spool._store is not None
    with closing(spool._store.writing.raw_connection()) as connection:
        connection.cursor().execute(f"PRAGMA {pragma}")


async def test_a_full_disk_refuses_new_rows_keeps_the_old_and_service_resumes(tmp_path: Path) -> None:
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
    await spool.put(row("before"))
    _pragma(spool, "max_page_count=1")  # SQLite takes it as the present size: each new page is SQLITE_FULL
    answers = await asyncio.gather(*(spool.put(row(f"t{n}", size=5_000)) for n in range(20)), return_exceptions=True)
    assert all(isinstance(answer, SpoolUnavailable) and "ML_DATA_DIR" in str(answer) for answer in answers)
    assert "disk is full" in str(answers[0])
    assert is_as_put(await spool.find("before"), row("before"))
    assert (await spool.measure()).tasks == 1
    _pragma(spool, "max_page_count=1000000")
    assert await spool.put(row("after", size=5_000))
    await spool.close()


async def test_a_disk_with_little_room_takes_nothing_new_and_gives_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
    for n in range(20):
        await spool.put(row(f"t{n}", size=5_000))
    kept = 50_000
    monkeypatch.setattr("mlproducer.spool.file._room", lambda _: (kept - 1, kept))
    with pytest.raises(SpoolUnavailable, match=r"disk is full.*ML_DATA_DIR"):
        await spool.put(row("new"))
    with pytest.raises(SpoolUnavailable, match="disk is full"):
        await spool.claim(claim("mine"), hold=10)
    leases = await spool.lease(20, hold=60)
    assert all(await spool.settle([(lease, DONE) for lease in leases]))
    assert await spool.put(row("after")), "the file did not shrink: what was taken out makes room in it"
    await spool.close()


async def test_a_file_that_became_read_only_refuses_new_rows_and_service_resumes(tmp_path: Path) -> None:
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
    _pragma(spool, "query_only=ON")  # what SQLite says of a read-only file, root or not
    with pytest.raises(SpoolUnavailable, match="read-only") as refused:
        await spool.put(row("a"))
    assert refused.value.__cause__ is not None
    assert await spool.find("a") is None
    _pragma(spool, "query_only=OFF")
    assert await spool.put(row("a"))
    await spool.close()


async def test_an_error_text_that_no_store_can_take_does_not_cost_the_row(tmp_path: Path) -> None:
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
    assert await spool.put(row("a", text="no\0file \udcff ✓"))
    assert is_as_put(await spool.find("a"), row("a", text="no?file ? ✓"))
    (lease,) = await spool.lease(1, hold=60)
    assert await settle(spool, lease, Bury(NOW, 3, "nacked", None, "\ud800"))
    (letter,) = await spool.dead(DeadFilter(text="?"), limit=1)
    assert letter.text == "?"
    await spool.close()


async def test_a_burst_is_committed_in_groups_of_bounded_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
    assert spool._store is not None
    commits: list[Connection] = []
    event.listen(spool._store.writing, "commit", commits.append)
    assert all(await asyncio.gather(*(spool.put(row(f"a{n}", size=1_000)) for n in range(50))))
    assert len(commits) < 50, "one commit is for many"
    commits.clear()
    monkeypatch.setattr("mlproducer.spool.writer.LARGEST_GROUP_BYTES", 2_000)
    assert all(await asyncio.gather(*(spool.put(row(f"b{n}", size=1_000)) for n in range(50))))
    assert len(commits) >= 25, "two rows reach the bound"
    await spool.close()


async def test_each_refused_caller_gets_an_error_of_its_own(tmp_path: Path) -> None:
    # One exception raised in a thousand tasks would collect a thousand tracebacks.
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
    _pragma(spool, "query_only=ON")
    answers = await asyncio.gather(*(spool.put(row(f"t{n}")) for n in range(5)), return_exceptions=True)
    assert len({id(answer) for answer in answers}) == 5
    await spool.close()


async def test_what_fails_one_request_fails_only_that_one(tmp_path: Path) -> None:
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
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
    await spool.close()


async def test_errors_do_not_quote_what_was_to_be_stored(tmp_path: Path) -> None:
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
    secret = row("a", delay=float("nan"), text="s3cr" + "et")  # in two parts: a traceback quotes this line
    with pytest.raises(SpoolUnavailable) as refused:
        await spool.put(secret)
    told = "".join(traceback.format_exception(refused.value))
    assert "IntegrityError" in told, "the cause is there"
    assert "s3cret" not in told
    await spool.close()


@pytest.mark.parametrize("what", ["moved", "removed"])
async def test_a_file_that_was_moved_or_removed_takes_no_new_rows_but_gives_what_it_has(
    tmp_path: Path, what: str
) -> None:
    path = tmp_path / "s.db"
    spool = SqliteSpool(path)
    await spool.open()
    await spool.put(row("a"))
    if what == "moved":
        path.rename(tmp_path / "elsewhere.db")
    else:
        path.unlink()
    with pytest.raises(SpoolUnavailable, match="moved or removed"):
        await spool.put(row("b"))
    (lease,) = await spool.lease(1, hold=60)
    assert await settle(spool, lease, DONE)
    if what == "moved":
        (tmp_path / "elsewhere.db").rename(path)
        assert await spool.put(row("b")), "service resumes when the file is back"
    await spool.close()


async def test_a_locked_database_is_waited_for(tmp_path: Path) -> None:
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
    with closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        put = asyncio.ensure_future(spool.put(row("a")))
        await asyncio.sleep(0.2)
        assert not put.done()
        other.execute("ROLLBACK")
        assert await put
    await spool.close()


async def test_a_put_cancelled_before_its_commit_is_not_stored(tmp_path: Path) -> None:
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
    with closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        first = asyncio.ensure_future(spool.put(row("first")))
        await asyncio.sleep(0.1)  # the writer has it, and waits for the lock
        second = asyncio.ensure_future(spool.put(row("second")))
        await asyncio.sleep(0)  # queued
        second.cancel()
        first.cancel()  # too late: it is stored whole, and nobody waits to hear so
        await asyncio.gather(first, second, return_exceptions=True)
        other.execute("ROLLBACK")
    assert await spool.put(row("third"))
    assert await spool.find("second") is None
    assert is_as_put(await spool.find("first"), row("first"))
    assert (await spool.measure()).tasks == 2
    await spool.close()


async def test_a_database_that_stays_locked_refuses_and_service_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlproducer.spool.file._BUSY_MS", 50)
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
    with closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SpoolUnavailable, match="another process holds it"):
            await spool.put(row("a"))
        assert await spool.find("a") is None, "reading goes on meanwhile"
        other.execute("ROLLBACK")
    assert await spool.put(row("a"))
    await spool.close()


async def test_something_else_than_a_spool_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.write_text("this is a letter to my aunt, and no database at all" * 20)
    with pytest.raises(SpoolUnavailable, match="ML_SPOOL_URL") as refused:
        await SqliteSpool(path).open()
    assert "aunt" in path.read_text()
    assert not [name for name in _open_files() if name.startswith(str(path))], "also while the error is kept"
    assert refused.value.__cause__ is not None


def _open_files() -> list[str]:
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # another thread's, closed since
            found.append(str(each.readlink()))
    return found


async def test_a_folder_that_cannot_be_made_is_named_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolUnavailable, match="ML_DATA_DIR"):
        await SqliteSpool(tmp_path / "file" / "s.db").open()


async def test_a_folder_that_may_not_be_written_is_named_with_its_setting() -> None:
    with pytest.raises(SpoolUnavailable, match="ML_DATA_DIR"):
        await SqliteSpool(Path("/sys/s.db")).open()  # the kernel refuses new files there, even to root


async def test_a_closed_spool_says_so(tmp_path: Path) -> None:
    spool = SqliteSpool(tmp_path / "s.db")
    with pytest.raises(SpoolUnavailable, match="not open"):
        await spool.put(row("a"))
    with pytest.raises(SpoolUnavailable, match="not open"):
        await spool.measure()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://h:port/db", "its host and port cannot be read"),
        ("postgresql://h/db?timeout=soon", "timeout"),
        ("postgresql://h/db?timeout=0", "timeout"),
        ("mysql://h", "sqlite"),
        ("sqlite:///:memory:", "memory://"),
    ],
)
def test_an_address_of_no_known_store_is_refused(url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as refused:
        open_spool(url)
    assert "ML_SPOOL_URL" in str(refused.value)
