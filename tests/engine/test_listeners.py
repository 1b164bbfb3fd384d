"""A listener of the application cannot break the promise, whatever it raises, and whatever it calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from engine_bench import Bench, bench, embed, until
from mlproducer import Producer, Receipt, Settings
from mlproducer.core.replay import Chosen
from mlproducer.events import (
    ALL_EVENTS,
    AttemptSettled,
    BreakerChanged,
    CallbackFailed,
    CallbackSlow,
    ConnectionChanged,
    ConnectionState,
    Event,
    TaskConfirmed,
    TaskRetried,
    TaskSpooled,
)
from mlproducer.outcome import Nacked, Outcome, Returned
from mlproducer.ports import Settle
from mlproducer.rows import DeadFilter
from mlproducer.task import Envelope


class Raiser:
    """Raises at each event of a type, or at every one."""

    def __init__(self, error: BaseException, kinds: tuple[type[Event], ...] = ALL_EVENTS) -> None:
        self._error = error
        self._kinds = kinds

    def __call__(self, event: Event) -> None:
        if isinstance(event, self._kinds):
            raise type(self._error)(*self._error.args)


def _unreadable(done: int, total: int) -> None:
    raise ZeroDivisionError(done, total)


def _listening(*listeners: Callable[[Event], None], **given: Any) -> Bench:
    return bench(listeners=listeners, **given)


async def _a_life(b: Bench) -> None:
    """All weathers, and every task comes to where it would come to without a listener."""
    async with asyncio.timeout(30), b.producer as p:
        assert await p.connected(5)
        tasks = [embed(n) for n in range(4)]
        assert all([(await p.publish(task)).confirmed for task in tasks[:2]])
        b.broker.script.append(Nacked())
        assert not (await p.publish(tasks[2])).confirmed
        streamed = [r async for r in p.publish_many([embed(n) for n in range(10, 15)])]
        assert all(isinstance(r, Receipt) and r.confirmed for r in streamed)
        b.broker.drop()
        assert not (await p.publish(tasks[3])).confirmed
        await until(lambda: len(b.broker.task_ids()) == 9)
        b.broker.script.extend([Returned(312, "no route")] * 3)
        dead = await p.publish(embed("dead"))
        await until(lambda: p.metrics.json()["tasks"]["dead_lettered"]["embed_vectors"]["returned"] == 1)  # type: ignore[index]  # a document
        everything: Chosen = DeadFilter()
        assert await p.replay(everything, progress=_unreadable) == 1
        await until(lambda: dead.task_id in b.broker.task_ids())
        b.broker.blocked = True
        p.reconnect()
        await until(lambda: b.broker.connects == 3)
        b.broker.blocked = False
        await until(p.is_healthy)
    assert len(b.broker.task_ids()) == 10


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), asyncio.CancelledError(), GeneratorExit(), BaseException("odd"), TimeoutError()]
)
async def test_a_listener_that_raises_at_every_event_changes_nothing(error: BaseException) -> None:
    b = _listening(Raiser(error))
    await _a_life(b)
    errors = b.producer.metrics.json()["listeners"]
    assert errors["errors"]["listener"] >= 20  # type: ignore[index]  # a document
    failed = b.told(CallbackFailed)
    assert sum(bool(event.traceback) for event in failed) == 2, "told once a kind: of the listener, and of progress"
    assert {event.error for event in failed} == {type(error).__name__, "ZeroDivisionError"}


@pytest.mark.parametrize("kind", ALL_EVENTS)
async def test_a_listener_that_raises_at_one_kind_of_event_changes_nothing(kind: type[Event]) -> None:
    b = _listening(Raiser(RuntimeError("a bug"), (kind,)))
    async with asyncio.timeout(20), b.producer as p:
        await p.connected(5)
        assert (await p.publish(embed(1))).confirmed
        b.broker.script.append(Nacked())
        await p.publish(embed(2))
        await until(lambda: len(b.broker.task_ids()) == 2)
        assert [r.confirmed async for r in p.publish_many([embed(3)]) if isinstance(r, Receipt)] == [True]


async def test_an_error_of_a_listener_is_logged_once_a_kind_and_names_it(caplog: pytest.LogCaptureFixture) -> None:
    def greedy(event: Event) -> None:
        if isinstance(event, TaskConfirmed):
            raise (KeyError if event.task_id.startswith("k") else ValueError)("the application's own")

    b = _listening(greedy)
    async with b.producer as p:
        await p.connected(5)
        for n in range(3):
            await p.publish(embed(n, id=f"k{n}"))
            await p.publish(embed(n, id=f"v{n}"))
    lines = [record.getMessage() for record in caplog.records if "raised an error" in record.getMessage()]
    assert len(lines) == 2
    assert all("greedy" in line and "own" in line and "Traceback" in line for line in lines)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_a_listener_that_ends_the_program_ends_it_after_its_task_is_settled(error: type[BaseException]) -> None:
    """By hand on a loop of its own: within pytest's it would end pytest."""
    receipts: list[Receipt] = []
    stopped: list[bool] = []

    async def program() -> None:
        def quits(event: Event) -> None:
            if isinstance(event, TaskConfirmed):
                raise error

        b = _listening(quits)
        async with b.producer as p:
            await p.connected(5)
            receipts.append(await p.publish(embed()))
            try:
                await asyncio.sleep(60)
            finally:
                stopped.append(True)

    factory = type(asyncio.get_running_loop())

    def run() -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(program())

    with pytest.raises(error):
        await asyncio.to_thread(_passing, run)
    assert [receipt.confirmed for receipt in receipts] == [True], "the receipt was given before"
    assert stopped, "and the program was ended in order"


def _passing(run: Callable[[], None]) -> None:
    """A thread of a pool cannot hand on an exit; so it is handed on as what pytest can see."""
    run()


async def test_a_slow_listener_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    def sleepy(event: Event) -> None:
        if isinstance(event, TaskConfirmed):
            time.sleep(0.12)

    b = _listening(sleepy)
    async with b.producer as p:
        await p.connected(5)
        for n in range(2):
            await p.publish(embed(n))
    assert [event.name for event in b.told(CallbackSlow)] == [f"{__name__}.{sleepy.__qualname__}"] * 2
    lines = [record.getMessage() for record in caplog.records if "took long" in record.getMessage()]
    assert len(lines) == 1
    assert "sleepy" in lines[0]
    assert "TaskConfirmed" in lines[0]
    assert b.producer.metrics.json()["listeners"]["slow"] == 2  # type: ignore[index]  # a document


async def test_a_listener_that_publishes_and_reconnects_from_within_corrupts_nothing() -> None:
    calls: set[asyncio.Task[Receipt]] = set()

    class Meddler:
        producer: Producer

        def __call__(self, event: Event) -> None:
            p = self.producer
            match event:
                case TaskConfirmed() if len(calls) < 20:
                    calls.add(asyncio.get_running_loop().create_task(p.publish(embed("more"))))
                case ConnectionChanged(state=ConnectionState.DISCONNECTED):
                    p.reconnect()
                case BreakerChanged():
                    p.reset_breaker()
                case AttemptSettled() | TaskSpooled() | TaskRetried():
                    p.status()
                    p.health()
                case _:
                    pass

    meddler = Meddler()
    b = _listening(meddler, ml_breaker_failures=1, ml_reconnect_first=30, ml_reconnect_cap=30)
    meddler.producer = b.producer
    async with asyncio.timeout(20), b.producer as p:
        await p.connected(5)
        await p.publish(embed())
        b.broker.drop()
        await until(p.is_healthy)  # the wait of 30 s was called off, and no second timer is left behind
        await p.publish(embed())
        await until(lambda: len(b.broker.task_ids()) == 22)
        assert b.broker.connects == 2
        assert p._parts.link._timer is None, "one set after the reconnect would fire into the new link"
        ids = {receipt.task_id for receipt in await asyncio.gather(*calls)}
        assert ids <= set(b.broker.task_ids())


@pytest.mark.parametrize("way", ["publish", "publish_many", "drain"])
async def test_what_an_event_tells_of_is_done_before_it_is_told(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener may take a second, ask for what it hears of, or end the program: then its task is settled."""
    order: list[str] = []

    def hear(event: Event) -> None:
        match event:
            case AttemptSettled():
                order.append("told of the attempt")
            case TaskConfirmed(task_id=task_id):
                known = b.producer._parts.pipeline._book.settled(task_id)
                order.append(f"told of a task that is {known and known.state}")

    b = _listening(hear)
    attempts = b.producer._parts.pipeline._attempts
    real = attempts.start

    def start(envelope: Envelope, settle: Settle, **given: Any) -> None:
        def settled(outcome: Outcome) -> None:
            order.append("settled")
            settle(outcome)

        real(envelope, settled, **given)

    monkeypatch.setattr(attempts, "start", start)
    async with asyncio.timeout(20), b.producer as p:
        await p.connected(20)
        if way == "publish":
            await p.publish(embed())
        elif way == "publish_many":
            assert [r async for r in p.publish_many([embed()])]
        else:
            b.broker.blocked = True
            await p.publish(embed())
            order.clear()  # an attempt that was not admitted is settled too
            b.broker.blocked = False
            await until(lambda: len(order) == 3)
    assert order[0] == "settled"
    assert sorted(order[1:]) == ["told of a task that is confirmed", "told of the attempt"]


async def test_each_listener_hears_the_events_in_one_order() -> None:
    heard: list[Event] = []

    def first(event: Event) -> None:
        if isinstance(event, ConnectionChanged) and event.state is ConnectionState.DISCONNECTED:
            b.producer.reconnect()

    b = _listening(first, heard.append, ml_reconnect_first=30, ml_reconnect_cap=30)
    async with b.producer as p:
        await p.connected(5)
        b.broker.drop()
        await until(p.is_healthy)
    states = [event.state.name for event in heard if isinstance(event, ConnectionChanged)]
    assert states[:5] == ["CONNECTING", "CONNECTED", "DISCONNECTED", "CONNECTING", "CONNECTED"]
    assert heard == b.events


def test_a_listener_that_would_have_to_be_awaited_is_refused_at_once() -> None:
    async def listens(_event: Event) -> None: ...

    with pytest.raises(TypeError, match="listens is a coroutine function"):
        Producer(Settings.load(ml_spool_url="memory://"), listeners=[listens])  # type: ignore[list-item]  # the point
