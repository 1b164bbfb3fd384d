"""Faults of a real broker: what was accepted equals what is in the queues, the spool and the DLQ, by task id.

One private node that these tests kill, pause and restart; a fresh virtual host for each test.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aio_pika
import pytest

from depth import DEPTH
from making_queues import make_queue
from mlproducer import Producer, Receipt, Settings, Task, TaskState
from mlproducer.events import (
    AttemptSettled,
    BlockedChanged,
    ConnectionChanged,
    ConnectionFailed,
    ConnectionState,
    Event,
)
from mlproducer.testing.rabbitmq import PrivateRabbit
from places import places

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FAST: dict[str, object] = {
    # Shortened where a wait serves nobody; the confirm timeout stays at its 5 s unless a test says otherwise.
    "ml_reconnect_first": 0.1,
    "ml_reconnect_cap": 0.5,
    "ml_reconnect_attempts": 100,
    "ml_breaker_failures": 1_000,
    "ml_retry_first": 0.1,
    "ml_retry_cap": 0.2,
    "ml_drain_poll": 0.05,
    "ml_shutdown_timeout": 1.0,
    "rabbitmq_connection_timeout": 3_000,
}
CLOSE_ALL = 'rabbit_networking:close_connections(rabbit_networking:connections(), "expired by the test").'
"""What `rabbitmqctl close_all_connections` does."""
ONE_LOOP = pytest.mark.asyncio(loop_factories=["asyncio"])
"""Slow, and of frames alone, which tests/amqp tries on every event loop; what breaks a socket is tried here too."""


def embed(n: object) -> Task:
    return Task(task_type="embed_vectors", payload={"share_id": f"s{n}", "content": f"text {n} " * 20})


class Trial:
    """A producer on one virtual host with a spool of its own, and every receipt that callers got."""

    def __init__(self, url: str, folder: Path, **given: object) -> None:
        self.url = url
        self.folder = folder
        self.events: list[Event] = []
        self.settings = Settings.load(**{**FAST, "rabbitmq_url": url, "ml_data_dir": folder, **given})
        self.producer = Producer(self.settings, listeners=[self.events.append])
        self.receipts: list[Receipt] = []

    @property
    def database(self) -> Path:
        return self.folder / "mlproducer.db"

    @property
    def accepted(self) -> set[str]:
        return {receipt.task_id for receipt in self.receipts}

    async def publish(self, n: object) -> Receipt:
        receipt = await self.producer.publish(embed(n))
        self.receipts.append(receipt)
        return receipt

    async def load(self, count: int, at_once: int = 200) -> None:
        numbers = iter(range(count))

        async def caller() -> None:
            for n in numbers:
                await self.publish(n)

        await asyncio.gather(*(caller() for _ in range(at_once)))

    async def drained(self, seconds: float = 60) -> None:
        await until(lambda: self.producer.status().spool_tasks == 0, seconds)

    async def lose_nothing(self) -> None:
        where = await places(self.url, self.database)
        assert where.lost(self.accepted) == set()
        assert not set(where.queues) - self.accepted, "nothing that was not accepted is in a queue"

    def told(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


async def until(true: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110  # what is awaited has no event
            await asyncio.sleep(0.02)


@pytest.fixture
def node(own_rabbit: PrivateRabbit) -> PrivateRabbit:
    return own_rabbit


@pytest.fixture
def vhost(node: PrivateRabbit) -> str:
    """The URL of a fresh virtual host on the node."""
    return node.add_vhost(f"faults-{uuid4().hex[:8]}")


async def test_a_broker_killed_in_the_middle_of_thousands_of_publishes_loses_none(
    node: PrivateRabbit, vhost: str, tmp_path: Path
) -> None:
    tasks = 1_500 * DEPTH
    trial = Trial(vhost, tmp_path)
    async with trial.producer as p:
        assert await p.connected(20), p.status().last_error
        await trial.publish("first")  # which makes the queue
        await asyncio.to_thread(node.sync)
        load = asyncio.create_task(trial.load(tasks - 1))
        await until(lambda: len(trial.receipts) >= tasks // 5)
        await asyncio.to_thread(node.kill)
        await load
        assert len(trial.accepted) == tasks
        assert any(r.state is TaskState.SPOOLED for r in trial.receipts)
        await asyncio.to_thread(node.start)
        await trial.drained()
    await trial.lose_nothing()
    where = await places(vhost, trial.database)
    assert not where.spool
    assert where.duplicates <= 200, "no more than were in flight"


@ONE_LOOP
async def test_a_broker_that_restarts_politely_loses_none(node: PrivateRabbit, vhost: str, tmp_path: Path) -> None:
    trial = Trial(vhost, tmp_path)
    async with trial.producer as p:
        assert await p.connected(20), p.status().last_error
        load = asyncio.create_task(trial.load(800, at_once=20))
        await until(lambda: len(trial.receipts) >= 200)
        await asyncio.to_thread(node.restart)
        await load
        await trial.drained()
    assert len(trial.accepted) == 800
    await trial.lose_nothing()


@ONE_LOOP
async def test_a_broker_paused_for_15_s_makes_tasks_unsure_and_they_are_spooled_within_the_confirm_timeout(
    node: PrivateRabbit, vhost: str, tmp_path: Path
) -> None:
    trial = Trial(vhost, tmp_path)
    async with trial.producer as p:
        assert await p.connected(20), p.status().last_error
        await trial.load(100)
        await asyncio.to_thread(node.pause)
        loop = asyncio.get_running_loop()
        try:
            started = loop.time()
            await trial.load(100)
            took = loop.time() - started
            await asyncio.sleep(max(0.0, 15 - took))
        finally:
            await asyncio.to_thread(node.resume)
        assert 4.5 < took < 8, "the whole publish is bounded by the 5 s confirm timeout"
        await trial.drained()
    assert len(trial.accepted) == 200
    await trial.lose_nothing()


async def test_a_memory_alarm_spools_at_once_and_its_end_drains(
    node: PrivateRabbit, vhost: str, tmp_path: Path
) -> None:
    trial = Trial(vhost, tmp_path)
    async with trial.producer as p:
        assert await p.connected(20), p.status().last_error
        await trial.load(10)
        await asyncio.to_thread(node.memory_alarm, on=True)
        try:
            # The broker tells a publisher that it is blocked at its next publish after its connection heard of the alarm.
            async with asyncio.timeout(20):
                while not any(event.blocked for event in trial.told(BlockedChanged)):
                    await trial.publish("one that may learn of it")
                    await asyncio.sleep(0.02)
            assert p.health().status == "degraded"
            started = asyncio.get_running_loop().time()
            await trial.load(100)
            assert asyncio.get_running_loop().time() - started < 4, "nobody waits for a broker that says it is blocked"
        finally:
            await asyncio.to_thread(node.memory_alarm, on=False)
        await until(lambda: not p.status().blocked)
        await trial.drained()
    await trial.lose_nothing()


@ONE_LOOP
async def test_a_queue_that_nobody_makes_sends_tasks_through_their_attempts_to_the_dlq_and_back_by_replay(
    vhost: str, tmp_path: Path
) -> None:
    await _admin(vhost, lambda channel: channel.declare_exchange("ml.tasks", "topic", durable=True))
    trial = Trial(vhost, tmp_path, ml_declare_topology=False, ml_route_patience=1)
    async with trial.producer as p:
        assert await p.connected(20), p.status().last_error
        await trial.load(20)
        assert {r.state for r in trial.receipts} == {TaskState.SPOOLED}
        await until(lambda: p.status().dead == 20)
        letters = await p.dead_letters()
        assert {(letter.reason, letter.code) for letter in letters} == {("returned", 312)}
        await trial.lose_nothing()
        await asyncio.to_thread(make_queue, vhost, "ml.embed")
        assert await p.replay([letter.task_id for letter in letters]) == 20
        await trial.drained()
    where = await places(vhost, trial.database)
    assert len(where.queues) == 20
    assert not where.dead


@ONE_LOOP
async def test_tasks_for_a_queue_that_is_made_within_the_patience_wait_for_it_and_spend_nothing(
    vhost: str, tmp_path: Path
) -> None:
    await asyncio.to_thread(make_queue, vhost, "ml.summarize")
    trial = Trial(vhost, tmp_path, ml_declare_topology=False)
    async with trial.producer as p:
        assert await p.connected(20), p.status().last_error
        await trial.load(20)
        assert {r.state for r in trial.receipts} == {TaskState.SPOOLED}
        sent = len(trial.told(AttemptSettled))
        await until(lambda: len(trial.told(AttemptSettled)) > sent + 2)  # probes
        assert (await p.publish_summarization_task("1", "another queue")).confirmed
        (check,) = [check for check in p.health().checks if check.name == "routes"]
        assert (check.status, "no queue is bound for its routing key" in check.detail) == ("degraded", True)
        assert {row.attempts for row in await p.waiting()} == {0}
        await asyncio.to_thread(make_queue, vhost, "ml.embed")
        await trial.drained()
        assert p.status().dead == 0
    where = await places(vhost, trial.database)
    assert trial.accepted <= set(where.queues)


@ONE_LOOP
async def test_a_queue_that_is_deleted_is_made_anew_by_the_tasks_that_come_back_from_there(
    vhost: str, tmp_path: Path
) -> None:
    trial = Trial(vhost, tmp_path)
    async with trial.producer as p:
        assert await p.connected(20), p.status().last_error
        assert (await trial.publish("first")).confirmed
        await _admin(vhost, lambda channel: channel.queue_delete("ml.embed"))
        await trial.load(20)
        await trial.drained()
        assert p.status().dead == 0
        assert (await trial.publish("last")).confirmed
    where = await places(vhost, trial.database)
    assert trial.accepted - set(where.queues) == {trial.receipts[0].task_id}, "which went with the queue"


@ONE_LOOP
async def test_a_queue_that_rejects_publishes_nacks_and_the_tasks_end_in_the_dlq(vhost: str, tmp_path: Path) -> None:
    async def small_queue(channel: aio_pika.abc.AbstractChannel) -> None:
        arguments: dict[str, Any] = {"x-max-length": 5, "x-overflow": "reject-publish"}
        queue = await channel.declare_queue("ml.embed", durable=True, arguments=arguments)
        exchange = await channel.declare_exchange("ml.tasks", "topic", durable=True)
        await queue.bind(exchange, "ml.embed")

    await _admin(vhost, small_queue)
    trial = Trial(vhost, tmp_path, ml_route_patience=1)
    async with trial.producer as p:
        assert await p.connected(20), "a queue with other arguments than ours does not stop the producer"
        for n in range(12):
            await trial.publish(n)
        await until(lambda: p.status().dead + sum(r.confirmed for r in trial.receipts) == 12)
        assert {letter.reason for letter in await p.dead_letters()} == {"nacked"}
    await trial.lose_nothing()


@ONE_LOOP
@pytest.mark.parametrize("wrong", ["password", "vhost"])
async def test_a_wrong_login_spools_and_says_why_without_the_password(vhost: str, tmp_path: Path, wrong: str) -> None:
    login, _, place = vhost.rpartition("@")
    host, _, name = place.partition("/")
    user = login.rpartition(":")[0]
    bad = f"{user}:s3cret-of-mine@{host}/{name}" if wrong == "password" else f"{login}@{host}/no-such-vhost"
    trial = Trial(bad, tmp_path)
    async with trial.producer as p:
        assert not await p.connected(20)
        await trial.load(20)
        assert {r.state for r in trial.receipts} == {TaskState.SPOOLED}
        error = p.status().last_error
        assert "RABBITMQ_URL" in error
        assert "s3cret" not in error
        assert trial.told(ConnectionFailed)[0].error_type == ("auth" if wrong == "password" else "vhost")
    right = Trial(vhost, tmp_path)
    async with right.producer as p:
        assert await p.connected(20), p.status().last_error
        await right.drained()
    where = await places(vhost, trial.database)
    assert where.lost(trial.accepted) == set()
    assert set(where.queues) == trial.accepted


async def test_a_connection_closed_by_an_operator_is_made_again_and_nothing_is_lost(
    node: PrivateRabbit, vhost: str, tmp_path: Path
) -> None:
    trial = Trial(vhost, tmp_path)
    async with trial.producer as p:
        assert await p.connected(20), p.status().last_error
        load = asyncio.create_task(trial.load(3_000, at_once=50))
        await until(lambda: len(trial.receipts) >= 100)
        await asyncio.to_thread(node.eval, CLOSE_ALL)
        await until(lambda: bool(trial.told(ConnectionFailed)))
        assert not load.done()
        await load
        await until(lambda: trial.told(ConnectionChanged)[-1].state is ConnectionState.CONNECTED)
        await trial.drained()
    await trial.lose_nothing()


def _limit_messages(node: PrivateRabbit, size: int) -> None:
    """As `max_message_size` does in rabbitmq.conf, which RabbitMQ 4 reads once, at its start, into a persistent term."""
    node.eval(f"application:set_env(rabbit, max_message_size, {size}), persistent_term:put(max_message_size, {size}).")


@ONE_LOOP
async def test_a_message_over_the_brokers_limit_is_dead_lettered_and_harms_no_other(
    node: PrivateRabbit, vhost: str, tmp_path: Path
) -> None:
    await asyncio.to_thread(_limit_messages, node, 20_000)
    try:
        trial = Trial(vhost, tmp_path)
        async with trial.producer as p:
            assert await p.connected(20), p.status().last_error
            big = Task(task_type="embed_vectors", payload={"share_id": "big", "content": "x" * 30_000})
            load = asyncio.create_task(trial.load(500, at_once=50))
            receipt = await p.publish(big)
            trial.receipts.append(receipt)
            await load
            await until(lambda: p.status().dead == 1)
            (letter,) = await p.dead_letters()
            assert letter.task_id == receipt.task_id
            assert letter.reason == "channel_refused"
            assert letter.code == 406
            await trial.drained()
        await trial.lose_nothing()
    finally:
        await asyncio.to_thread(_limit_messages, node, 134_217_728)


async def test_publishes_cancelled_at_any_moment_leave_ledger_and_spool_whole(vhost: str, tmp_path: Path) -> None:
    trial = Trial(vhost, tmp_path)
    async with trial.producer as p:
        assert await p.connected(20), p.status().last_error
        cancelled: set[str] = set()
        for n in range(300):
            task = embed(n)
            call = asyncio.create_task(p.publish(task))
            for _ in range(n % 12):
                await asyncio.sleep(0)
            await asyncio.sleep((n % 7) / 2_000)
            if n % 50 == 49:
                await asyncio.wait([call])  # so that some are confirmed, on a machine that stands still too
            call.cancel()
            (result,) = await asyncio.gather(call, return_exceptions=True)
            if isinstance(result, Receipt):
                trial.receipts.append(result)
            else:
                cancelled.add(task.id)
        await until(lambda: p.status().in_flight == 0)
        assert cancelled
        assert trial.receipts
        await trial.publish("after all that")
    where = await places(vhost, trial.database)
    assert where.lost(trial.accepted) == set()
    assert not where.spool, "no call needed the spool"
    assert where.duplicates == 0
    assert set(where.queues) - trial.accepted <= cancelled, "a cancelled one may have landed; nothing else may"


async def _admin(url: str, work: Callable[[Any], Any]) -> None:
    connection = await aio_pika.connect(url)
    async with connection:
        await work(await connection.channel())
