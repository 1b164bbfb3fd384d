"""Several processes on one SQLite file: who lives, who died, whose turn it is, and who may change old tables."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import event

from mlproducer.errors import SpoolUnavailable
from mlproducer.rows import Again
from mlproducer.spool import file, sharing
from mlproducer.spool.locks import FileLock
from mlproducer.spool.migrations import FIRST, NEW, VERSION
from mlproducer.spool.sql import SqliteSpool
from mlproducer.testing.spool_contract import DONE, audit, claim, row
from sharing_child import ROWS
from starting import run_together

CHILD = Path(__file__).parents[1] / "helpers" / "sharing_child.py"
FILE = "s.db"


@asynccontextmanager
async def open_spool(path: Path, *, owner: bool = True) -> AsyncIterator[SqliteSpool]:
    spool = SqliteSpool(path, owner=owner)
    await spool.open()
    try:
        yield spool
    finally:
        await spool.close()


@asynccontextmanager
async def child(path: Path, what: str) -> AsyncIterator[tuple[Process, list[str]]]:
    """When it is ready; with the lines that it said before. Killed at the end."""
    process = await asyncio.create_subprocess_exec(sys.executable, str(CHILD), str(path), what, stdout=PIPE)
    lines: list[str] = []
    try:
        assert process.stdout is not None
        while (line := (await process.stdout.readline()).decode().strip()) != "ready":
            assert line, "it ended by itself"
            lines.append(line)
        yield process, lines
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def taken(spool: SqliteSpool, limit: int = 100) -> list[str]:
    """The ids of rows that nobody else holds."""
    return [each.row.envelope.task_id for each in await spool.lease(limit, hold=60)]


async def until_free(spool: SqliteSpool, task_id: str) -> None:
    async with asyncio.timeout(30):
        while await taken(spool) != [task_id]:
            await spool.measure()
            await asyncio.sleep(0.01)


async def test_four_processes_open_a_new_file_write_and_drain_together(tmp_path: Path) -> None:
    """Somebody looks in, and replays and purges, all the while."""
    path = tmp_path / FILE
    together = asyncio.create_task(run_together([sys.executable, str(CHILD), str(path), "work"], 4))
    looks = 0
    while not together.done() and not looks:
        try:
            async with open_spool(path, owner=False) as visitor:
                while not together.done():
                    assert await visitor.purge(audit("nobody", action="purge")) == 0
                    looks += 1
        except SpoolUnavailable as error:
            assert "there is no spool" in str(error) or "no producer has opened it yet" in str(error)  # noqa: PT017  # so early
            await asyncio.sleep(0.05)
    taken_by = await together
    ids = [each for words in taken_by for each in words]
    assert len(ids) == len(set(ids)) == 4 * ROWS, "each row by one of them"
    assert looks
    async with open_spool(path) as spool:
        size = await spool.measure()
        assert (size.tasks, size.bytes, size.next_due_at) == (0, 0, None)
        assert await spool.forget(limit=5_000) == 4 * ROWS


@pytest.mark.parametrize("what", ["hold", "fork"])
async def test_what_a_killed_process_held_is_released_by_one_that_lives(tmp_path: Path, what: str) -> None:
    """Also if a child, which was forked while it had the spool, lives on."""
    async with open_spool(tmp_path / FILE) as spool:
        await spool.put(row("a"))
        async with child(tmp_path / FILE, what) as (process, said):
            try:
                await spool.measure()
                assert await taken(spool) == [], "it lives"
                assert await spool.claim(claim("claimed"), hold=10) is not None
                process.kill()
                await process.wait()
                await until_free(spool, "a")
                assert await spool.claim(claim("claimed"), hold=10) is None
            finally:
                for pid in said:
                    os.kill(int(pid), signal.SIGKILL)


async def test_what_a_killed_process_held_is_released_by_the_next_one(tmp_path: Path) -> None:
    async with open_spool(tmp_path / FILE) as spool:
        await spool.put(row("a"))
    async with child(tmp_path / FILE, "hold") as (process, _):
        process.kill()
        await process.wait()
    async with open_spool(tmp_path / FILE) as spool:
        assert await taken(spool) == ["a"]
        assert await spool.claim(claim("claimed"), hold=10) is None
        await spool.measure()
        processes = list((tmp_path / f"{FILE}.live").glob("*.process"))
        assert len(processes) == 1, "the files of the dead are gone"


REFUSED_AND_FORKED = """
import asyncio, os, pathlib, sys
from mlproducer.errors import SpoolUnavailable
from mlproducer.spool import forks
from mlproducer.spool.sql import SqliteSpool

forks.PATIENCE = 300.0
path = pathlib.Path(sys.argv[1])
path.write_bytes(b"this is no database" * 100)
spool, told = SqliteSpool(path), None
try:
    asyncio.run(spool.open())
except SpoolUnavailable as error:
    told = error  # kept, with all that it refers to
pid = os.fork()
if not pid:
    path.unlink()
    asyncio.run(SqliteSpool(path).open())
    os._exit(0)
print(os.waitpid(pid, 0)[1], told)
"""


def test_a_fork_waits_for_no_connection_whose_set_up_failed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", REFUSED_AND_FORKED, str(tmp_path / "s.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.startswith("0 the spool"), done.stderr


async def test_no_lock_outlives_its_producer_in_a_forked_child(tmp_path: Path) -> None:
    async with open_spool(tmp_path / FILE) as spool:
        await spool.put(row("a"))
        async with child(tmp_path / FILE, "close") as (_, said):
            try:
                await until_free(spool, "a")
            finally:
                os.kill(int(said[0]), signal.SIGKILL)
    with closing(FileLock(tmp_path / f"{FILE}.lock")) as common:
        assert common.take(), "nobody has it"


async def test_a_child_of_the_c_library_keeps_no_lock_that_was_given_back(tmp_path: Path) -> None:
    """Such a fork calls no hook of Python: the child has the open file still."""
    lock = FileLock(tmp_path / "lock")
    assert lock.take()
    copy = os.dup(lock._file)
    lock.close()
    with closing(FileLock(tmp_path / "lock")) as other:
        assert other.take()
    os.close(copy)


async def test_who_met_others_knows_it_for_good(tmp_path: Path) -> None:
    """Nobody can say from then on who drained whose rows."""
    async with open_spool(tmp_path / FILE):
        pass  # before, which does not count
    async with open_spool(tmp_path / FILE) as one:
        assert not (await one.measure()).met_others
        async with open_spool(tmp_path / FILE) as two:
            assert (await two.measure()).met_others
        assert (await one.measure()).met_others
        assert (await one.measure()).met_others


async def test_what_a_forked_child_puts_by_a_spool_of_its_own_is_there_when_its_parent_has_gone(tmp_path: Path) -> None:
    """SQLite's locks stay with the parent, and the child's copy of the library believes that it has them."""
    async with child(tmp_path / FILE, "own"):
        pass
    async with open_spool(tmp_path / FILE) as spool:
        assert await spool.find("parent") is not None
        assert await spool.find("child") is not None
        assert (await spool.measure()).tasks == 102


async def test_symbolic_links_are_one_spool(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / FILE)
    async with open_spool(tmp_path / FILE) as one, open_spool(tmp_path / "link.db") as two:
        await one.put(row("a"))
        assert await taken(two) == ["a"]
        await one.measure()
        assert await taken(one) == [], "the other one lives"


@pytest.mark.parametrize("owner", [True, False])
async def test_a_hard_link_is_refused_since_two_logs_would_destroy_the_file(tmp_path: Path, *, owner: bool) -> None:
    async with open_spool(tmp_path / FILE) as one:
        await one.put(row("a"))
        (tmp_path / "link.db").hardlink_to(tmp_path / FILE)
        with pytest.raises(SpoolUnavailable, match="2 names"):
            await SqliteSpool(tmp_path / "link.db", owner=owner).open()
        assert await one.put(row("b")), "who has it goes on"


@pytest.mark.parametrize("again", ["nothing", "empty", "copied"])
async def test_lock_files_that_were_removed_or_made_anew_prove_nobody_dead(tmp_path: Path, again: str) -> None:
    async with open_spool(tmp_path / FILE) as one:
        await one.put(row("a"))
        (lease,) = await one.lease(1, hold=60)
        (own,) = (tmp_path / f"{FILE}.live").glob("*.process")
        shutil.copy(own, tmp_path / "copy")
        own.unlink()
        (tmp_path / f"{FILE}.lock").unlink()
        if again == "copied":
            (tmp_path / "copy").rename(own)
        elif again == "empty":
            own.touch()
        async with open_spool(tmp_path / FILE) as two:
            await two.measure()
            assert await taken(two) == []
            await one.measure()  # it takes part again
            assert await one.settle([(lease, Again(0, 1, "nacked", "", alone=False))]) == [True]
            (lease,) = await one.lease(1, hold=3_600)
            await two.measure()
            assert await taken(two) == []
            assert await one.settle([(lease, DONE)]) == [True]


async def test_an_older_version_that_shares_with_nobody_keeps_us_out_and_we_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "PATIENCE", 0.05)
    with (tmp_path / f"{FILE}.lock").open("w") as older:  # what it does
        fcntl.flock(older, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(SpoolUnavailable, match=r"older mlproducer.*ML_DATA_DIR"):
            await SqliteSpool(tmp_path / FILE).open()
    async with open_spool(tmp_path / FILE), open_spool(tmp_path / FILE):
        with (tmp_path / f"{FILE}.lock").open("w") as older, pytest.raises(BlockingIOError):
            fcntl.flock(older, fcntl.LOCK_EX | fcntl.LOCK_NB)


async def test_one_that_is_just_ending_is_waited_for(tmp_path: Path) -> None:
    with (tmp_path / f"{FILE}.lock").open("w") as older:
        fcntl.flock(older, fcntl.LOCK_EX | fcntl.LOCK_NB)
        opening = asyncio.create_task(SqliteSpool(tmp_path / FILE).open())
        await asyncio.sleep(0.1)
        assert not opening.done()
    await opening


async def test_who_lost_the_lock_file_to_an_older_version_takes_nothing_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_spool(tmp_path / FILE) as one:
        monkeypatch.setattr(sharing, "PATIENCE", 0.05)
        (tmp_path / f"{FILE}.lock").unlink()
        with (tmp_path / f"{FILE}.lock").open("w") as older:
            fcntl.flock(older, fcntl.LOCK_EX | fcntl.LOCK_NB)
            await one.measure()
            with pytest.raises(SpoolUnavailable, match="lock file was removed"):
                await one.put(row("a"))
        await one.measure()
        assert await one.put(row("a")), "it has the lock again"


def old_file(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in NEW["sqlite"]:
            connection.execute(statement)
        connection.execute("CREATE TABLE mlproducer_schema_version (version INTEGER NOT NULL)")
        connection.execute("INSERT INTO mlproducer_schema_version VALUES (?)", (FIRST,))


async def test_an_older_file_is_changed_by_one_and_by_nobody_while_others_live_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_file(tmp_path / FILE)
    with closing(FileLock(tmp_path / f"{FILE}.lock")) as living:
        assert living.take(shared=True)
        monkeypatch.setattr(sharing, "PATIENCE", 0.05)
        with pytest.raises(
            SpoolUnavailable, match=rf"older mlproducer \(its schema is version {FIRST}\).*stop that one"
        ):
            await SqliteSpool(tmp_path / FILE).open()
    monkeypatch.undo()
    spools = [SqliteSpool(tmp_path / FILE) for _ in range(4)]
    await asyncio.gather(*(each.open() for each in spools))
    assert [await each.put(row(str(n))) for n, each in enumerate(spools)] == [True] * 4
    for each in spools:
        await each.close()


async def test_a_newer_file_is_refused_by_all(tmp_path: Path) -> None:
    async with open_spool(tmp_path / FILE):
        pass
    with closing(sqlite3.connect(tmp_path / FILE)) as connection, connection:
        connection.execute("UPDATE mlproducer_schema_version SET version = ?", (VERSION + 1,))
    spools = [SqliteSpool(tmp_path / FILE) for _ in range(3)]
    refused = await asyncio.gather(*(each.open() for each in spools), return_exceptions=True)
    assert all("newer mlproducer" in str(each) for each in refused)


async def test_a_process_that_is_stopped_in_its_turn_stops_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_spool(tmp_path / FILE) as one, open_spool(tmp_path / FILE):
        await one.measure()
        monkeypatch.setattr(sharing, "TURN", 0.05)
        with closing(FileLock(tmp_path / f"{FILE}.live" / "turn")) as stopped:
            assert stopped.take()
            assert await one.put(row("a"))


HOLDS = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(120)
"""


@contextmanager
def stopped_in_a_transaction(path: Path) -> Iterator[None]:
    """A process that holds the file's lock and is stopped; at the end it goes on, and dies."""
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


async def test_a_process_that_is_stopped_in_a_transaction_is_named_to_who_waited_for_one_try_and_it_works_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "_BUSY_MS", 1_000)
    monkeypatch.setattr(file, "_OVERDUE", 0.0)
    async with open_spool(tmp_path / FILE) as spool:
        tries: list[object] = []
        event.listen(spool._opened().writing, "handle_error", tries.append)
        with stopped_in_a_transaction(tmp_path / FILE):
            first = asyncio.ensure_future(spool.confirm(claim("a"), confirmed_at=0.0, keep=1))
            while spool._writes()._began is None:  # noqa: ASYNC110  # a thread tells no event
                await asyncio.sleep(0.01)
            answers = await asyncio.gather(first, spool.put(row("b")), return_exceptions=True)
            assert len(tries) == 1, "nobody waits for two"
            for each in answers:
                assert isinstance(each, SpoolUnavailable)
                assert re.search(r"database is locked.*perhaps a stopped one.*ML_SPOOL_URL", str(each))
        assert await spool.put(row("b"))
