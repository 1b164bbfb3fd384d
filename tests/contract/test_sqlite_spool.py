"""What is special to the embedded spool: the file, its owner, its versions, its faults."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import traceback
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, event

from mlproducer.errors import SettingsError, SpoolUnavailable
from mlproducer.ports import Again, Bury, DeadFilter, Done
from mlproducer.spool import open_spool
from mlproducer.spool.migrations import VERSION, m0001_initial
from mlproducer.spool.schema import metadata
from mlproducer.spool.sql import SqliteSpool
from mlproducer.testing.spool_contract import NOW, row


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
    assert await spool.find("t1") == row("t1")
    await spool.close()


async def test_leases_of_a_dead_owner_end_when_the_next_one_opens_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    await _filled(path)
    first = SqliteSpool(path)
    await first.open()
    (lease, *_) = await first.lease(3, now=NOW, until=NOW + 3600)
    await first.close()
    second = SqliteSpool(path)
    await second.open()
    assert len(await second.lease(3, now=NOW, until=NOW + 60)) == 3
    assert not await second.settle(lease, Done())
    await second.close()


async def test_a_second_owner_is_refused_and_told_which_setting_to_change(tmp_path: Path) -> None:
    first, second = SqliteSpool(tmp_path / "s.db"), SqliteSpool(tmp_path / "s.db")
    await first.open()
    with pytest.raises(SpoolUnavailable, match="ML_DATA_DIR"):
        await second.open()
    await first.close()
    await second.open()
    await second.close()


async def test_two_names_of_one_file_have_one_owner(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "s.db")
    first, second = SqliteSpool(tmp_path / "s.db"), SqliteSpool(tmp_path / "link.db")
    await first.open()
    with pytest.raises(SpoolUnavailable, match="another producer"):
        await second.open()
    await first.close()


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
    puts = [asyncio.create_task(first.put(row(f"t{n}"))) for n in range(50)]
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
    (lease,) = await owner.lease(1, now=NOW, until=NOW + 60)
    await owner.settle(lease, Bury(NOW, 3, "nacked", None, "why"))
    visitor = open_spool(f"sqlite:///{tmp_path / 's.db'}", owner=False)
    await visitor.open()
    assert len(await visitor.dead(DeadFilter(), limit=10)) == 1
    assert await visitor.replay(["a"], now=NOW) == 1
    await visitor.close()
    assert len(await owner.lease(1, now=NOW, until=NOW + 60)) == 1, "the owner finds what the visitor replayed"
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
    assert spool._file is not None
    with spool._file.writing.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    await spool.close()


def _file_of_version_1(path: Path) -> None:
    """A spool as version 1 left it, with a row, a dead letter and a lease."""
    with closing(sqlite3.connect(path)) as old:
        for statement in m0001_initial._DDL:
            old.execute(statement)
        old.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        old.execute("INSERT INTO schema_version VALUES (1)")
        old.execute(
            "INSERT INTO waiting VALUES ('old','embed_vectors','ml.embed',x'00',x'01',2,NULL,NULL,1,2,9e9,'t',0,'','',0)"
        )
        old.execute(
            "INSERT INTO dead_letters VALUES ('dead','embed_vectors','q',x'00',x'02',2,NULL,7,1,3,3,'nacked',NULL,'')"
        )
        old.execute("UPDATE totals SET tasks = 1, bytes = 2, dead = 1")
        old.commit()


async def test_a_file_of_version_1_is_brought_up_with_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    _file_of_version_1(path)
    spool = SqliteSpool(path)
    await spool.open()
    size = await spool.measure()
    assert (size.tasks, size.bytes, size.dead) == (1, 2, 1)
    assert await spool.find("dead") is not None
    assert [lease.row.envelope.task_id for lease in await spool.lease(5, now=NOW, until=NOW + 60)] == ["old"]
    await spool.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT version FROM schema_version").fetchall() == [(VERSION,)]


async def test_an_older_file_becomes_the_same_as_a_new_one(tmp_path: Path) -> None:
    _file_of_version_1(tmp_path / "old.db")
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
    _file_of_version_1(path)

    def half(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE half (id INTEGER)")
        connection.exec_driver_sql("DROP TABLE nobody")

    with monkeypatch.context() as patch:
        patch.setattr("mlproducer.spool.migrations.STEPS", (m0001_initial.upgrade, half))
        with pytest.raises(SpoolUnavailable):
            await SqliteSpool(path).open()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT version FROM schema_version").fetchall() == [(1,)]
        assert not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'half'").fetchall()
    spool = SqliteSpool(path)
    await spool.open()
    assert await spool.find("old") is not None
    await spool.close()


async def test_a_visitor_does_not_bring_an_older_file_up(tmp_path: Path) -> None:
    _file_of_version_1(tmp_path / "s.db")
    with pytest.raises(SpoolUnavailable, match="older mlproducer"):
        await SqliteSpool(tmp_path / "s.db", owner=False).open()


async def test_a_file_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    await _filled(path)
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("UPDATE schema_version SET version = ?", (VERSION + 1,))
        newer.commit()
    with pytest.raises(SpoolUnavailable, match="newer mlproducer"):
        await SqliteSpool(path).open()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM waiting").fetchone() == (3,)


def _pragma(spool: SqliteSpool, pragma: str) -> None:
    assert spool._file is not None
    with closing(spool._file.writing.raw_connection()) as connection:
        connection.cursor().execute(f"PRAGMA {pragma}")


async def test_a_full_disk_refuses_new_rows_keeps_the_old_and_service_resumes(tmp_path: Path) -> None:
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
    await spool.put(row("before"))
    _pragma(spool, "max_page_count=1")  # SQLite takes it as the present size: each new page is SQLITE_FULL
    answers = await asyncio.gather(*(spool.put(row(f"t{n}", size=5_000)) for n in range(20)), return_exceptions=True)
    assert all(isinstance(answer, SpoolUnavailable) and "ML_DATA_DIR" in str(answer) for answer in answers)
    assert "disk is full" in str(answers[0])
    assert await spool.find("before") == row("before")
    assert (await spool.measure()).tasks == 1
    _pragma(spool, "max_page_count=1000000")
    assert await spool.put(row("after", size=5_000))
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
    assert await spool.put(row("a", text="no file \udcff ✓"))
    assert await spool.find("a") == row("a", text="no file ? ✓")
    (lease,) = await spool.lease(1, now=NOW, until=NOW + 60)
    assert await spool.settle(lease, Bury(NOW, 3, "nacked", None, "\ud800"))
    (letter,) = await spool.dead(DeadFilter(text="?"), limit=1)
    assert letter.text == "?"
    await spool.close()


async def test_a_burst_is_committed_in_groups_of_bounded_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
    assert spool._file is not None
    commits: list[Connection] = []
    event.listen(spool._file.writing, "commit", commits.append)
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
    (lease,) = await spool.lease(1, now=NOW, until=NOW + 60)
    answers = await asyncio.gather(
        spool.put(row("a")),
        spool.put(row("bad", due_at=float("nan"))),
        spool.settle(lease, Again(float("nan"), 1, "nacked", "", alone=False)),
        spool.settle(lease, Done()),
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
    assert {found.envelope.task_id for found in await spool.waiting(limit=10)} == {"a", "b"}
    assert (await spool.measure()).tasks == 2
    await spool.close()


async def test_errors_do_not_quote_what_was_to_be_stored(tmp_path: Path) -> None:
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
    secret = row("a", due_at=float("nan"), text="s3cr" + "et")  # in two parts: a traceback quotes this line
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
    (lease,) = await spool.lease(1, now=NOW, until=NOW + 60)
    assert await spool.settle(lease, Done())
    if what == "moved":
        (tmp_path / "elsewhere.db").rename(path)
        assert await spool.put(row("b")), "service resumes when the file is back"
    await spool.close()


async def test_a_locked_database_is_waited_for(tmp_path: Path) -> None:
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
    with closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        put = asyncio.create_task(spool.put(row("a")))
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
        first = asyncio.create_task(spool.put(row("first")))
        await asyncio.sleep(0.1)  # the writer has it, and waits for the lock
        second = asyncio.create_task(spool.put(row("second")))
        await asyncio.sleep(0)  # queued
        second.cancel()
        first.cancel()  # too late: it is stored whole, and nobody waits to hear so
        await asyncio.gather(first, second, return_exceptions=True)
        other.execute("ROLLBACK")
    assert await spool.put(row("third"))
    assert await spool.find("second") is None
    assert await spool.find("first") == row("first")
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
    with pytest.raises(SpoolUnavailable, match="ML_SPOOL_URL"):
        await SqliteSpool(path).open()
    assert "aunt" in path.read_text()


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
        ("postgresql://h/db", "not in this version"),
        ("redis://h", "not in this version"),
        ("mysql://h", "sqlite"),
        ("sqlite:///:memory:", "memory://"),
    ],
)
def test_an_address_of_no_known_store_is_refused(url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as refused:
        open_spool(url)
    assert "ML_SPOOL_URL" in str(refused.value)
