"""What every store of claims does: Redis, PostgreSQL and SQLite."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa

from mlproducer.errors import OnceUnavailable, SettingsError
from mlproducer.worker import sql_claims
from mlproducer.worker.claims import Claim, ClaimStore, Found, open_claims
from mlproducer.worker.redis_claims import PREFIX
from private_redis import PrivateRedis

LEASE = 60.0
BUSY = Found(done=False, turn=0)
DONE = Found(done=True)


@pytest.fixture
def store(claims_url: str) -> Iterator[ClaimStore]:
    with closing(open_claims(claims_url)) as opened:
        yield opened


@pytest.fixture
def task_id() -> str:
    return str(uuid4())


def a(task_id: str, turn: int = 0) -> Claim:
    return Claim(task_id, "token-a", turn)


def b(task_id: str, turn: int = 0) -> Claim:
    return Claim(task_id, "token-b", turn)


def is_done(found: Found | None) -> bool:
    return found is not None and found.done


def test_an_id_is_claimed_by_one(store: ClaimStore, task_id: str) -> None:
    assert store.claim(a(task_id), LEASE) is None
    assert store.claim(b(task_id), LEASE) == BUSY
    assert store.claim(b(task_id + "-other"), LEASE) is None


def test_a_claim_says_of_which_turn_it_is(store: ClaimStore, task_id: str) -> None:
    store.claim(a(task_id, 65_539), LEASE)
    assert store.claim(b(task_id), LEASE) == Found(done=False, turn=65_539)


def test_a_claim_whose_answer_was_lost_is_claimed_again(store: ClaimStore, task_id: str) -> None:
    store.claim(a(task_id), LEASE)
    assert store.claim(a(task_id), LEASE) is None


def test_a_released_id_is_free(store: ClaimStore, task_id: str) -> None:
    store.claim(a(task_id), LEASE)
    store.release(a(task_id))
    assert store.claim(b(task_id), LEASE) is None


def test_only_the_holder_releases_and_renews(store: ClaimStore, task_id: str) -> None:
    store.claim(a(task_id), LEASE)
    store.release(b(task_id))
    assert not store.renew(b(task_id), LEASE)
    assert store.claim(b(task_id), LEASE) == BUSY
    assert store.renew(a(task_id), LEASE)


def test_a_lease_that_is_over_counts_for_nothing(store: ClaimStore, task_id: str) -> None:
    store.claim(a(task_id), 0.05)
    time.sleep(0.1)
    assert store.claim(b(task_id), LEASE) is None
    assert not store.renew(a(task_id), LEASE)
    store.release(a(task_id))
    assert store.claim(a(task_id), LEASE) == BUSY


def test_a_renewed_lease_goes_on(store: ClaimStore, task_id: str) -> None:
    store.claim(a(task_id), 0.3)
    assert store.renew(a(task_id), LEASE)
    time.sleep(0.4)
    assert store.claim(b(task_id), LEASE) == BUSY


def test_a_done_id_is_done_for_everybody_and_cannot_be_released(store: ClaimStore, task_id: str) -> None:
    store.claim(a(task_id), LEASE)
    store.finish(a(task_id), LEASE)
    store.release(a(task_id))
    assert not store.renew(a(task_id), LEASE)
    assert is_done(store.claim(b(task_id), LEASE))


def test_who_lost_his_claim_and_did_the_work_marks_it_done_all_the_same(store: ClaimStore, task_id: str) -> None:
    store.claim(a(task_id), 0.05)
    time.sleep(0.1)
    store.claim(b(task_id), LEASE)
    store.finish(a(task_id), LEASE)
    assert is_done(store.claim(Claim(task_id, "token-c", 0), LEASE))


def test_what_is_done_is_forgotten_in_time(store: ClaimStore, task_id: str) -> None:
    store.finish(a(task_id), 0.05)
    time.sleep(0.1)
    assert store.claim(b(task_id), LEASE) is None


def test_of_many_at_once_one_has_it(claims_url: str, task_id: str) -> None:
    stores = [open_claims(claims_url) for _ in range(8)]
    start = threading.Barrier(8)
    answers: list[Found | None] = []

    def take(number: int) -> None:
        start.wait()
        answers.append(stores[number].claim(Claim(task_id, f"token-{number}", 0), LEASE))

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    assert sorted(answers, key=str) == [BUSY] * 7 + [None]


def test_a_worker_that_makes_one_table_a_moment_earlier_breaks_no_other(tmp_path: Path, task_id: str) -> None:
    """Both found no table; the other one made the first, and not yet the second."""
    url = f"sqlite:///{tmp_path / 'once.db'}"
    made: list[str] = []

    def overtaken(table: sa.Table, *_: object, **__: object) -> None:
        if not made:
            made.append(table.name)
            with closing(sqlite3.connect(tmp_path / "once.db", timeout=5)) as other, other:
                other.execute(str(sa.schema.CreateTable(table)))

    sa.event.listen(sql_claims.TABLE, "before_create", overtaken)
    try:
        with closing(open_claims(url)) as store:
            assert store.claim(a(task_id), LEASE) is None
            assert store.claim(b(task_id), LEASE) == BUSY
    finally:
        sa.event.remove(sql_claims.TABLE, "before_create", overtaken)
    assert made == [sql_claims.TABLE.name]


def test_redis_keeps_one_key_a_task_which_ends_by_itself(redis_for_claims: PrivateRedis, task_id: str) -> None:
    with closing(open_claims(redis_for_claims.url())) as store:
        store.claim(a(task_id), LEASE)
        assert 0 < redis_for_claims.run("PTTL", PREFIX + task_id) <= LEASE * 1000
        store.finish(a(task_id), 3600)
        assert LEASE * 1000 < redis_for_claims.run("PTTL", PREFIX + task_id) <= 3_600_000
        assert redis_for_claims.run("GET", PREFIX + task_id) == b"done"


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_sql_removes_rows_whose_time_is_past(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite = f"sqlite:///{tmp_path / 'once.db'}"
    url = sqlite if kind == "sqlite" else request.getfixturevalue("postgres_for_claims")
    monkeypatch.setattr(sql_claims, "CLEAN_SHARE", 1.0)
    with closing(sql_claims.SqlClaims(url)) as store:
        for number in range(10):
            store.claim(a(f"{task_id}-{number}"), 0.01)
        time.sleep(0.05)
        store.finish(a(task_id), LEASE)
        ours = sql_claims.TABLE.c.task_id.like(f"{task_id}%")
        with store._engine.begin() as connection:
            found = connection.execute(sa.select(sql_claims.TABLE.c.task_id).where(ours))
            assert found.scalars().all() == [task_id]


def test_a_redis_that_is_away_is_told_and_found_again(tmp_path: Path, task_id: str) -> None:
    with PrivateRedis(tmp_path, password="s3cretword") as server, closing(open_claims(server.url())) as store:
        store.claim(a(task_id), LEASE)
        store.finish(a(task_id), LEASE)
        server.kill()
        with pytest.raises(OnceUnavailable, match="ML_ONCE_URL") as away:
            store.claim(b(task_id), LEASE)
        assert "s3cretword" not in str(away.value)
        server.start()
        assert is_done(store.claim(b(task_id), LEASE))


@pytest.mark.parametrize("url", ["sqlite:////nowhere/at/all/once.db", "postgresql://ml:s3cretword@127.0.0.1:1/x"])
def test_a_database_that_is_away_is_told_without_its_password(url: str, task_id: str) -> None:
    with closing(open_claims(url)) as store, pytest.raises(OnceUnavailable, match="ML_ONCE_URL") as away:
        store.claim(a(task_id), LEASE)
    assert "s3cretword" not in str(away.value)


@pytest.mark.parametrize(
    "url", ["", "mysql://host/x", "redis://host:port/x", "memory://", "postgresql+nodriver://host/x"]
)
def test_a_url_that_names_no_store_is_refused_by_its_setting(url: str) -> None:
    with pytest.raises(SettingsError, match="ML_ONCE_URL"):
        open_claims(url)


# Whose clock it is


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'once.db'}"


@pytest.mark.parametrize("by", [-3_600.0, 3_600.0])
def test_a_lease_and_a_memory_last_as_long_when_the_clock_of_the_machine_is_set(
    sqlite_url: str, task_id: str, by: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_claims(sqlite_url)) as store:
        store.claim(a(task_id), LEASE)
        store.claim(a("dead"), 0.5)
        store.finish(a("done"), LEASE)
        wall = time.time
        monkeypatch.setattr(time, "time", lambda: wall() + by)
        assert store.claim(b(task_id), LEASE) == BUSY
        assert is_done(store.claim(b("done"), LEASE))
    with closing(open_claims(sqlite_url)) as later:  # of a worker that was started after that
        assert later.claim(b(task_id), LEASE) == BUSY
        assert later.renew(a(task_id), LEASE)
        end = time.monotonic() + 20
        while later.claim(b("dead"), LEASE) is not None and time.monotonic() < end:
            time.sleep(0.05)
        assert later.claim(b("dead"), LEASE) is None, "its lease of half a second is over"


def test_leases_go_on_when_the_machine_starts_again_and_counts_from_zero(
    sqlite_url: str, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    since_start = 1_000_000.0
    monkeypatch.setattr(time, "monotonic", lambda: since_start)
    with closing(open_claims(sqlite_url)) as store:
        store.claim(a(task_id), LEASE)
        store.finish(a("done"), 2 * LEASE)
        since_start = 10.0
        assert store.claim(b(task_id), LEASE) == BUSY
        since_start += LEASE
        assert store.claim(b(task_id), LEASE) is None
        assert is_done(store.claim(b("done"), LEASE))
        since_start += LEASE
        assert store.claim(b("done"), LEASE) is None
