"""`once` under Celery's own tracer, which is what a worker runs a task with; each race in its order."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery.app.trace import build_tracer
from celery.exceptions import Reject

from mlproducer.errors import OnceUnavailable, SettingsError
from mlproducer.worker import duplicates, held, once
from mlproducer.worker.claims import Claim, ClaimStore, Found, open_claims
from mlproducer.worker.delivery import Delivery
from mlproducer.worker.duplicates import Busy, decide
from mlproducer.worker.sql_claims import SqlClaims
from private_redis import PrivateRedis

_names = count()


class App:
    """A Celery application without a broker, whose tasks are run as a worker runs them."""

    def __init__(self, folder: Path) -> None:
        (folder / "results").mkdir()
        self.celery = Celery("test", broker="memory://", backend=f"file://{folder / 'results'}", set_as_current=False)

    def task(self, work: Callable[..., Any], **options: Any) -> Any:
        name = f"tests.task{next(_names)}"
        return self.celery.task(work, **{"bind": True, "acks_late": True, "name": name, "shared": False, **options})

    def deliver(self, task: Any, task_id: str, *, redelivered: bool = False, **request: Any) -> str:
        """One delivery; the state that Celery gives it."""
        facts = {"id": task_id, "delivery_info": {"redelivered": redelivered}, "is_eager": False, **request}
        tracer = build_tracer(task.name, task, app=self.celery)
        outcome = tracer(task_id, (), {}, facts)
        return "SUCCESS" if outcome.info is None else str(outcome.info.state)

    def result(self, task_id: str) -> Any:
        return self.celery.AsyncResult(task_id).result


def done(_self: Any) -> str:
    return "done"


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(tmp_path)


@pytest.fixture
def store(claims_url: str) -> Iterator[ClaimStore]:
    with closing(open_claims(claims_url)) as opened:
        yield opened


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SqlClaims]:
    """For what does not depend on the store."""
    with closing(SqlClaims(f"sqlite:///{tmp_path / 'once.db'}")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "TRIES", (0.01, 0.01, 0.01))
    monkeypatch.setattr(duplicates, "POLL", 0.05)
    monkeypatch.setattr(held, "FINISH_TRIES", (0.01, 0.01, 0.01))


@pytest.fixture
def task_id() -> str:
    return str(uuid4())


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_second_delivery_of_a_done_task_does_not_run_and_leaves_its_result(
    app: App, store: ClaimStore, task_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[str] = []

    def work(self: Any) -> str:
        runs.append(self.request.id)
        return f"result {len(runs)}"

    task = app.task(once(store)(work))
    with caplog.at_level(logging.INFO, "mlproducer.worker"):
        states = [app.deliver(task, task_id), app.deliver(task, task_id), app.deliver(task, task_id, redelivered=True)]
    assert states == ["SUCCESS", "IGNORED", "IGNORED"]
    assert runs == [task_id]
    assert app.result(task_id) == "result 1"
    assert f"{task.name}[{task_id}] is dropped: it was done before" in caplog.text


def test_other_ids_run(app: App, store: ClaimStore) -> None:
    task = app.task(once(store)(done))
    assert [app.deliver(task, str(uuid4())) for _ in range(3)] == ["SUCCESS"] * 3


def test_a_failure_gives_the_id_back(app: App, store: ClaimStore, task_id: str) -> None:
    outcomes = iter([ValueError("no"), "done", "again"])

    def work(_self: Any) -> object:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    task = app.task(once(store)(work))
    assert [app.deliver(task, task_id) for _ in range(3)] == ["FAILURE", "SUCCESS", "IGNORED"]
    assert app.result(task_id) == "done"


@pytest.mark.parametrize("throw", [True, False])
def test_a_retry_is_no_duplicate_of_the_try_that_asked_for_it(
    app: App, sqlite: SqlClaims, task_id: str, *, throw: bool
) -> None:
    runs: list[int] = []

    def work(self: Any) -> object:
        runs.append(self.request.retries)
        return self.retry(countdown=0, throw=throw) if self.request.retries < 2 else "done"

    task = app.task(once(sqlite)(work))
    for retries in range(3):
        app.deliver(task, task_id, retries=retries)
    assert runs == [0, 1, 2]
    assert app.deliver(task, task_id) == "IGNORED"
    assert app.deliver(task, task_id, retries=3) == "IGNORED"  # done is done, whichever retry a copy is of
    assert runs == [0, 1, 2]


@pytest.mark.parametrize("busy", ["wait", "skip"])
def test_a_retry_that_overtakes_the_end_of_its_try_waits_for_it_and_runs(
    app: App, sqlite: SqlClaims, task_id: str, busy: Busy
) -> None:
    """`self.retry()` publishes first and raises then: the next try may be delivered while the claim stands."""
    published, overtaken = threading.Event(), threading.Event()
    runs: list[int] = []

    def work(self: Any) -> str:
        runs.append(self.request.retries)
        if self.request.retries == 0:
            retry = self.retry(countdown=0, throw=False)
            published.set()
            overtaken.wait(10)
            raise retry
        return "done"

    task = app.task(once(sqlite, busy=busy)(work))
    first = in_thread(lambda: app.deliver(task, task_id))
    assert published.wait(10)
    in_time = threading.Timer(0.3, overtaken.set)
    in_time.start()
    assert app.deliver(task, task_id, retries=1) == "SUCCESS"
    first.join()
    assert runs == [0, 1]


@pytest.mark.parametrize("fails", [False, True])
def test_a_copy_that_comes_while_another_runs_waits_for_its_end(
    app: App, store: ClaimStore, task_id: str, *, fails: bool
) -> None:
    working, go_on = threading.Event(), threading.Event()
    runs: list[int] = []

    def work(_self: Any) -> str:
        runs.append(len(runs))
        if len(runs) == 1:
            working.set()
            go_on.wait(10)
            if fails:
                raise ValueError("no")
        return "done"

    task = app.task(once(store)(work))
    first = in_thread(lambda: app.deliver(task, task_id))
    assert working.wait(10)
    second: list[str] = []
    waiting = in_thread(lambda: second.append(app.deliver(task, task_id)))
    time.sleep(0.3)
    assert waiting.is_alive()
    assert runs == [0]
    go_on.set()
    first.join()
    waiting.join()
    assert second == (["SUCCESS"] if fails else ["IGNORED"])
    assert runs == ([0, 1] if fails else [0])


def test_a_redelivery_waits_for_the_lease_of_a_dead_worker_and_runs(app: App, store: ClaimStore, task_id: str) -> None:
    store.claim(Claim(task_id, "a worker that died", 0), 0.8)
    task = app.task(once(store, busy="skip")(done))
    started = time.monotonic()
    assert app.deliver(task, task_id, redelivered=True) == "SUCCESS"
    assert time.monotonic() - started > 0.5


def test_a_task_may_take_longer_than_its_lease(app: App, store: ClaimStore, task_id: str) -> None:
    seen: list[Found | None] = []

    def work(_self: Any) -> None:
        for _ in range(4):
            time.sleep(0.75)
            seen.append(store.claim(Claim(task_id, "another", 0), 60))

    # Renewed every third of it: a machine that stands still for a second does not end it.
    task = app.task(once(store, lease=2)(work))
    assert app.deliver(task, task_id) == "SUCCESS"
    assert seen == [Found(done=False)] * 4


def test_a_copy_is_skipped_at_once_if_told_so(app: App, sqlite: SqlClaims, task_id: str) -> None:
    sqlite.claim(Claim(task_id, "another", 0), 60)
    task = app.task(once(sqlite, busy="skip")(done))
    assert app.deliver(task, task_id) == "IGNORED"


def test_a_copy_under_a_time_limit_goes_back_to_its_queue_in_time(app: App, sqlite: SqlClaims, task_id: str) -> None:
    sqlite.claim(Claim(task_id, "another", 0), 60)
    ran: list[str] = []

    def work(self: Any) -> None:
        ran.append(self.request.id)

    task = app.task(once(sqlite)(work), soft_time_limit=2)
    started = time.monotonic()
    tracer = build_tracer(task.name, task, app=app.celery)
    outcome = tracer(
        task_id, (), {}, {"id": task_id, "delivery_info": {}, "is_eager": False, "timelimit": [None, None]}
    )
    assert isinstance(outcome.info.retval, Reject)
    assert outcome.info.retval.requeue
    assert 0.9 < time.monotonic() - started < 10
    assert ran == []


def test_a_task_is_done_only_when_its_result_is_stored(app: App, sqlite: SqlClaims, task_id: str) -> None:
    """A worker that dies in between must find the task undone: what follows it was not sent."""
    found: list[Found | None] = []
    task = app.task(once(sqlite)(done))
    mark_as_done = task.backend.mark_as_done

    def storing(*args: Any, **kwargs: Any) -> None:
        found.append(sqlite.claim(Claim(task_id, "another", 0), 60))
        mark_as_done(*args, **kwargs)

    task.backend.mark_as_done = storing
    assert app.deliver(task, task_id) == "SUCCESS"
    assert found == [Found(done=False)]
    assert sqlite.claim(Claim(task_id, "another", 0), 60) == Found(done=True)


def test_a_result_that_cannot_be_stored_gives_the_id_back(app: App, sqlite: SqlClaims, task_id: str) -> None:
    task = app.task(once(sqlite)(done))

    def broken(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("no backend")

    mark_as_done, task.backend.mark_as_done = task.backend.mark_as_done, broken
    with pytest.warns(RuntimeWarning, match="no backend"):
        assert app.deliver(task, task_id) == "FAILURE"
    task.backend.mark_as_done = mark_as_done
    assert app.deliver(task, task_id, redelivered=True) == "SUCCESS"


def test_called_by_hand_or_eagerly_it_simply_runs(app: App) -> None:
    """No store is asked: the URL of this one is wrong."""

    @once("nonsense://")
    def by_hand(number: int) -> int:
        return number + 1

    @once("nonsense://")
    def work(_self: Any, number: int) -> int:
        return number + 1

    assert by_hand(1) == 2
    task = app.task(work)
    assert task(1) == 2
    assert task.apply((1,)).get() == 2


def test_a_function_that_calls_another_of_the_same_task_does_not_wait_for_itself(
    app: App, sqlite: SqlClaims, task_id: str
) -> None:
    @once(sqlite)
    def inner() -> str:
        return "inner"

    @once(sqlite)
    def outer(_self: Any) -> str:
        return inner()

    task = app.task(outer)
    assert app.deliver(task, task_id) == "SUCCESS"


class Away:
    """A store that does not answer the first `times`."""

    def __init__(self, behind: ClaimStore, times: int) -> None:
        self._behind = behind
        self.times = times

    def _answer(self) -> ClaimStore:
        if self.times > 0:
            self.times -= 1
            raise OnceUnavailable("Redis is away: see ML_ONCE_URL")
        return self._behind

    def claim(self, claim: Claim, lease: float) -> Found | None:
        return self._answer().claim(claim, lease)

    def renew(self, claim: Claim, lease: float) -> bool:
        return self._answer().renew(claim, lease)

    def release(self, claim: Claim) -> None:
        self._answer().release(claim)

    def finish(self, claim: Claim, ttl: float) -> None:
        self._answer().finish(claim, ttl)

    def close(self) -> None: ...


def test_a_store_that_is_away_for_a_moment_is_asked_again(app: App, sqlite: SqlClaims, task_id: str) -> None:
    task = app.task(once(Away(sqlite, 2))(done))
    assert [app.deliver(task, task_id) for _ in range(2)] == ["SUCCESS", "IGNORED"]


def test_with_a_store_that_is_away_the_task_runs_and_says_that_it_may_be_twice(
    app: App, sqlite: SqlClaims, task_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    task = app.task(once(Away(sqlite, 1000))(done))
    assert app.deliver(task, task_id) == "SUCCESS"
    assert f"{task.name}[{task_id}] may run twice: Redis is away" in caplog.text


def test_with_strict_the_task_fails_while_the_store_is_away(app: App, sqlite: SqlClaims, task_id: str) -> None:
    ran: list[str] = []

    def work(self: Any) -> None:
        ran.append(self.request.id)

    away = Away(sqlite, 4)
    task = app.task(once(away, strict=True)(work))
    assert app.deliver(task, task_id) == "FAILURE"
    assert ran == []
    assert app.deliver(task, task_id) == "SUCCESS"


def test_a_store_that_is_lost_at_the_end_leaves_a_task_that_succeeded(
    app: App, sqlite: SqlClaims, task_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    away = Away(sqlite, 0)

    def work(_self: Any) -> str:
        away.times = 1000
        return "done"

    task = app.task(once(away)(work))
    assert app.deliver(task, task_id) == "SUCCESS"
    assert "is done, and a copy of it may run again" in caplog.text


def test_without_a_store_in_code_or_environment_the_task_fails_and_says_what_to_set(
    app: App, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ML_ONCE_URL", raising=False)
    task = app.task(once()(done))
    assert app.deliver(task, task_id) == "FAILURE"
    assert isinstance(app.result(task_id), SettingsError)


def test_the_store_may_come_from_the_workers_environment(
    app: App, redis_for_claims: PrivateRedis, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = app.task(once()(done))
    monkeypatch.setenv("ML_ONCE_URL", redis_for_claims.url())
    assert [app.deliver(task, task_id) for _ in range(2)] == ["SUCCESS", "IGNORED"]


def delivery(**given: Any) -> Delivery:
    facts = {"task_id": "t", "task": "n", "turn": 0, "redelivered": False, "acks_late": True}
    return Delivery(**{**facts, "time_limit": None, "request": None, **given})


@pytest.mark.parametrize(
    ("found", "given", "busy", "expected"),
    [
        (Found(done=True), {}, "wait", "drop"),
        (Found(done=True), {"redelivered": True}, "skip", "drop"),
        (Found(done=True), {"turn": 5}, "skip", "drop"),
        (Found(done=False), {}, "wait", "wait"),
        (Found(done=False), {}, "skip", "drop"),
        (Found(done=False, turn=3), {"turn": 2}, "skip", "drop"),
        (Found(done=False), {"redelivered": True}, "skip", "wait"),  # perhaps the holder's own message
        (Found(done=False), {"acks_late": False}, "skip", "wait"),  # the holder's message is in no queue
        (Found(done=False), {"turn": 1}, "skip", "wait"),  # sent on purpose
        (Found(done=False, turn=9), {"turn": 65_536}, "skip", "wait"),  # by replace
    ],
)
def test_only_what_is_safe_elsewhere_is_dropped(found: Found, given: dict[str, Any], busy: Busy, expected: str) -> None:
    assert decide(found, delivery(**given), busy) == expected
