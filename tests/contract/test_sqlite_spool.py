"""What is special to the embedded spool: the file, its owner, its versions, its faults."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from mlproducer.errors import SettingsError, SpoolUnavailable
from mlproducer.ports import DeadFilter, Done
from mlproducer.spool import open_spool
from mlproducer.spool.migrations import VERSION, m0001_initial
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


async def test_a_visitor_lists_and_replays_next_to_the_owner(tmp_path: Path) -> None:
    from mlproducer.ports import Bury  # noqa: PLC0415  # used once

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


async def test_every_commit_is_on_the_disk(tmp_path: Path) -> None:
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
    assert spool._writing is not None
    with spool._writing.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    await spool.close()


async def test_a_file_of_version_1_is_opened_with_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with closing(sqlite3.connect(path)) as old:
        for statement in m0001_initial._DDL:
            old.execute(statement)
        old.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        old.execute("INSERT INTO schema_version VALUES (1)")
        old.execute(
            "INSERT INTO waiting VALUES ('old','embed_vectors','ml.embed',x'00',x'01',2,NULL,NULL,1,2,2,NULL,0,'','',0)"
        )
        old.execute("UPDATE totals SET tasks = 1, bytes = 2")
        old.commit()
    spool = SqliteSpool(path)
    await spool.open()
    assert (await spool.measure()).tasks == 1
    assert await spool.find("old") is not None
    await spool.close()


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


async def test_a_full_disk_refuses_new_rows_keeps_the_old_and_service_resumes(tmp_path: Path) -> None:
    spool = SqliteSpool(tmp_path / "s.db")
    await spool.open()
    await spool.put(row("before"))
    assert spool._writing is not None

    def limit(pages: int) -> None:
        assert spool._writing is not None
        with spool._writing.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    limit(1)  # SQLite takes it as the present size: from now on every new page is SQLITE_FULL
    with pytest.raises(SpoolUnavailable, match="disk is full"):
        await asyncio.gather(*(spool.put(row(f"t{n}", size=5_000)) for n in range(20)))
    assert await spool.find("before") == row("before")
    assert (await spool.measure()).tasks == 1
    limit(1_000_000)
    assert await spool.put(row("after", size=5_000))
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


async def test_a_closed_spool_says_so(tmp_path: Path) -> None:
    spool = SqliteSpool(tmp_path / "s.db")
    with pytest.raises(SpoolUnavailable, match="not open"):
        await spool.put(row("a"))
    with pytest.raises(SpoolUnavailable, match="not open"):
        await spool.measure()


@pytest.mark.parametrize(
    ("url", "says"),
    [("postgresql://h/db", "not in this version"), ("redis://h", "not in this version"), ("mysql://h", "sqlite")],
)
def test_an_address_of_no_known_store_is_refused(url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as refused:
        open_spool(url)
    assert "ML_SPOOL_URL" in str(refused.value)


WRITER = """
import asyncio, sys
from pathlib import Path
from mlproducer.spool.sql import SqliteSpool
from mlproducer.testing.spool_contract import row

async def main():
    spool = SqliteSpool(Path(sys.argv[1]))
    await spool.open()
    async def caller(name):
        for n in range(1_000_000):
            if await spool.put(row(f"{sys.argv[2]}-{name}-{n}")):
                print(f"{sys.argv[2]}-{name}-{n}", flush=True)
    await asyncio.gather(*(caller(name) for name in range(20)))

asyncio.run(main())
"""


async def test_what_was_answered_is_there_after_kill_9_at_any_moment(tmp_path: Path) -> None:
    path, told = tmp_path / "s.db", set[str]()
    for run in range(6):
        writer = subprocess.Popen(  # noqa: ASYNC220  # a test of its own loop
            [sys.executable, "-c", WRITER, str(path), str(run)], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        head = await asyncio.to_thread(writer.stdout.readline)
        await asyncio.sleep(random.uniform(0, 0.15))
        os.kill(writer.pid, signal.SIGKILL)
        rest = await asyncio.to_thread(writer.stdout.read)
        writer.wait()
        writer.stdout.close()
        told |= {line.decode() for line in (head + rest).split(b"\n")[:-1] if line}
    spool = SqliteSpool(path)
    await spool.open()
    there = {found.envelope.task_id for found in await spool.waiting(limit=10_000_000)}
    assert told
    assert told <= there
    assert (await spool.measure()).tasks == len(there)
    await spool.close()
    shutil.rmtree(tmp_path)
