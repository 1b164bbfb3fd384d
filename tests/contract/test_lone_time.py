"""The time of a spool that one machine has for itself: the wall clock is set, the machine starts again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlproducer import Settings, Task
from mlproducer.outbox import Outbox
from mlproducer.ports import Spool
from mlproducer.spool.file_time import MARK_EVERY
from mlproducer.spool.memory import MemorySpool
from mlproducer.spool.sql import SqliteSpool
from mlproducer.testing.clock import ManualClock
from mlproducer.testing.spool_contract import NOW, claim, held, row

HOUR = 3_600.0
SET = pytest.mark.parametrize("by", [-HOUR, HOUR])


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.db"


@pytest.fixture(params=["memory", "file", "file opened again"])
async def spool(request: pytest.FixtureRequest, path: Path, clock: ManualClock):  # type: ignore[no-untyped-def]  # noqa: ANN201  # a fixture
    made: Spool = MemorySpool(clock) if request.param == "memory" else SqliteSpool(path, clock=clock)
    await made.open()
    yield Reopened(made) if request.param == "file opened again" else made
    await made.close()


class Reopened(SqliteSpool):
    """Closed and opened again before each look at what is due: as by a process that starts when the clock was set."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def __getattribute__(self, name: str) -> object:
        spool = object.__getattribute__(self, "_spool")
        if name not in {"lease", "waiting", "find", "claim"}:
            return getattr(spool, name)

        async def call(*args: object, **given: object) -> object:
            await spool.close()
            await spool.open()
            return await getattr(spool, name)(*args, **given)

        return call


async def leased(spool: Spool) -> list[str]:
    return sorted(lease.row.envelope.task_id for lease in await spool.lease(9, hold=0))


async def test_an_eta_is_the_wall_clocks_and_comes_with_it(spool: Spool, clock: ManualClock) -> None:
    await spool.put(row("a", eta=NOW + HOUR))
    await spool.put(row("b", eta=NOW + 2 * HOUR))
    await spool.put(row("delayed", delay=HOUR))
    assert await leased(spool) == []
    clock.set_wall(HOUR)
    assert await leased(spool) == ["a"], "a delay is no moment of any clock"
    assert [(each.task_id, each.due_at) for each in await spool.waiting(limit=9)] == [
        ("a", NOW + HOUR),
        ("b", NOW + 2 * HOUR),
        ("delayed", NOW + 2 * HOUR),
    ], "as the wall clock has it now"
    clock.advance(HOUR)
    assert await leased(spool) == ["a", "b", "delayed"]


async def test_an_eta_goes_back_with_the_wall_clock_and_what_was_due_stays_due(
    spool: Spool, clock: ManualClock
) -> None:
    await spool.put(row("due", eta=NOW + 10))
    await spool.put(row("a", eta=NOW + 100))
    clock.advance(50)
    clock.set_wall(-HOUR)
    assert await leased(spool) == ["due"]
    clock.advance(HOUR + 49)
    assert await leased(spool) == ["due"]
    clock.advance(1)
    assert await leased(spool) == ["a", "due"]


async def test_a_task_expires_when_the_wall_clock_says_so(spool: Spool, clock: ManualClock) -> None:
    await spool.put(row("a", delay=9_000))  # row() expires at NOW + 60
    clock.set_wall(-HOUR)
    clock.advance(120)
    assert not await spool.lease(9, hold=0, expired=True)
    clock.set_wall(HOUR)
    assert len(await spool.lease(9, hold=0, expired=True)) == 1


@SET
async def test_what_is_shown_is_as_the_wall_clock_has_it(spool: Spool, clock: ManualClock, by: float) -> None:
    await spool.claim(claim("before"), hold=10)
    clock.set_wall(by)
    await leased(spool)  # it is seen
    await spool.put(row("a", delay=5))
    ((task_id, due_at),) = [(each.task_id, each.due_at) for each in await spool.waiting(limit=9)]
    assert (task_id, due_at) == ("a", clock.now() + 5)
    size = await spool.measure()
    assert (size.first_due_at, size.next_due_at, size.at) == (clock.now() + 5, clock.now() + 5, None)
    if not isinstance(spool, Reopened):  # else its process is known to be dead
        assert await spool.find("before") == held(claim("before"), until=clock.now() + 10)


async def test_steps_too_small_to_matter_change_nothing_until_they_add_up(spool: Spool, clock: ManualClock) -> None:
    await spool.put(row("a", eta=NOW + 2))
    clock.set_wall(0.75)
    assert await leased(spool) == []
    assert [each.due_at for each in await spool.waiting(limit=9)] == [NOW + 2]
    clock.set_wall(1.5)
    assert await leased(spool) == ["a"]


@pytest.mark.parametrize("wall", [0.0, -20 * 365 * 86_400.0])
async def test_a_machine_that_starts_again_goes_on_where_it_was_whatever_its_clock_says(
    path: Path, clock: ManualClock, wall: float
) -> None:
    before = SqliteSpool(path, clock=clock)
    await before.open()
    clock.advance(30 * 86_400.0)
    await before.put(row("due"))
    await before.put(row("soon", delay=5))
    await before.claim(claim("a"), hold=60)
    await before.close()
    restarted = ManualClock(clock.now() + wall)  # its monotonic clock is that of an hour after the first one's start
    after = SqliteSpool(path, clock=restarted)
    await after.open()
    assert await leased(after) == ["due"]
    restarted.advance(5 + MARK_EVERY)
    assert await leased(after) == ["due", "soon"]
    restarted.advance(60)
    assert await after.claim(claim("a", token="you"), hold=60) is None
    await after.put(row("eta", eta=restarted.now() + 9))
    restarted.advance(9)
    assert await leased(after) == ["due", "eta", "soon"]
    await after.close()


@SET
@pytest.mark.parametrize("producer", ["runs", "is stopped"])
async def test_what_an_application_adds_is_due_by_the_files_time(
    path: Path, clock: ManualClock, by: float, producer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = SqliteSpool(path, clock=clock)
    await spool.open()
    if producer != "runs":
        await spool.close()
    clock.set_wall(by)
    monkeypatch.setattr("mlproducer.outbox._CLOCK", clock)
    outbox = Outbox(Settings.load(ml_spool_url=f"sqlite:///{path}"))
    with closing(sqlite3.connect(path)) as db:
        for task_id, eta in (("now", None), ("later", clock.now() + 60), ("past", clock.now() - 60)):
            outbox.add(db, _task(task_id, eta))
        db.commit()
    if producer != "runs":
        await spool.open()
    assert await leased(spool) == ["now", "past"]
    clock.advance(60)
    assert await leased(spool) == ["later", "now", "past"]
    await spool.close()


def _task(task_id: str, eta: float | None) -> Task:
    when = None if eta is None else datetime.fromtimestamp(eta, UTC)
    return Task(task_type="embed_vectors", payload={"share_id": "s", "content": "t"}, id=task_id, eta=when)
