"""A queue that goes away, or its binding, is noticed without a task that comes back: on a real broker."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aio_pika

from engine_bench import until
from mlproducer import Producer, Settings, Task, TaskState
from mlproducer.events import Event, RouteChanged, RouteState, TaskDeadLettered
from mlproducer.reliability.reader import Reader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aio_pika.abc import AbstractChannel

FAST: dict[str, Any] = {
    "ml_retry_first": 0.1,
    "ml_retry_cap": 0.5,
    "ml_drain_poll": 0.05,
    "ml_health_interval": 0.5,
}
EMBED, SUMMARIZE = "ml.embed", "ml.summarize"


def embed(n: object) -> Task:
    return Task(task_type="embed_vectors", payload={"share_id": f"s{n}", "content": f"text {n}"})


def summary(n: object) -> Task:
    return Task(task_type="summarize_llm", payload={"share_id": f"s{n}", "content": f"text {n}"})


@asynccontextmanager
async def running(url: str, folder: Path, **given: Any) -> AsyncIterator[tuple[Producer, list[Event], AbstractChannel]]:
    """A producer that has used two routes, on an exchange all of whose tasks a transient queue takes as well."""
    events: list[Event] = []
    settings = Settings.load(**{**FAST, "rabbitmq_url": url, "ml_data_dir": folder, **given})
    connection = await aio_pika.connect(url)
    async with asyncio.timeout(90), connection:
        admin = await connection.channel()
        exchange = await admin.declare_exchange("ml.tasks", "topic", durable=True)
        everything = await admin.declare_queue("spy", exclusive=True)
        await everything.bind(exchange, "#")
        async with Producer(settings, listeners=[events.append]) as p:
            assert await p.connected(20), p.status().last_error
            assert (await p.publish(embed(0))).state is TaskState.CONFIRMED
            assert (await p.publish(summary(0))).state is TaskState.CONFIRMED
            yield p, events, admin


def topology(p: Producer) -> str:
    return next(check.detail for check in p.health().checks if check.name == "channel_and_topology")


def shows_depth(p: Producer) -> bool:
    return f'queue_depth{{queue_name="{EMBED}"}}' in p.metrics.prometheus()[0].decode()


def shows_missing(p: Producer) -> str:
    """What the alert is made of."""
    told = p.metrics.prometheus()[0].decode()
    return told.partition(f'queue_missing{{queue_name="{EMBED}"}} ')[2].partition("\n")[0]


def taken(url: str, queue: str) -> set[str]:
    with Reader(url) as reader:
        return {message.task_id for message in reader.take(queue)}


async def is_there(url: str) -> bool:
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        try:
            await channel.declare_queue(EMBED, passive=True)
        except aio_pika.exceptions.ChannelNotFoundEntity:
            return False
    return True


def make(url: str) -> None:
    with Reader(url) as reader:
        for queue in (EMBED, SUMMARIZE):
            reader.make_queue(queue, "ml.tasks")


async def test_a_queue_of_ours_that_is_deleted_is_made_again_though_nobody_publishes(
    vhost_url: str, tmp_path: Path
) -> None:
    async with running(vhost_url, tmp_path) as (p, _, admin):
        await admin.queue_delete(EMBED)
        async with asyncio.timeout(30):
            while not await is_there(vhost_url):  # noqa: ASYNC110  # the broker has no event for it
                await asyncio.sleep(0.2)
        receipt = await p.publish(embed(1))
        assert receipt.state is TaskState.CONFIRMED
        assert receipt.task_id in await asyncio.to_thread(taken, vhost_url, EMBED)
        await until(lambda: "as expected" in topology(p), 20)


async def test_a_binding_of_ours_that_is_taken_away_is_made_again(vhost_url: str, tmp_path: Path) -> None:
    """Without it a task is confirmed on the word of the queue that takes everything."""
    async with running(vhost_url, tmp_path) as (p, _, admin):
        queue = await admin.get_queue(EMBED)
        await queue.unbind("ml.tasks", EMBED)
        async with asyncio.timeout(30):
            while True:
                receipt = await p.publish(embed("again"))
                if receipt.task_id in await asyncio.to_thread(taken, vhost_url, EMBED):
                    break
                await asyncio.sleep(0.2)


async def test_a_route_whose_queue_is_gone_is_held_and_not_confirmed_on_the_word_of_another(
    vhost_url: str, tmp_path: Path
) -> None:
    await asyncio.to_thread(make, vhost_url)
    async with running(vhost_url, tmp_path, ml_declare_topology=False) as (p, events, admin):
        await until(lambda: shows_depth(p), 20)
        await admin.queue_delete(EMBED)
        await until(lambda: f"{EMBED}: it is not there" in topology(p), 20)
        assert p.health().status == "degraded"
        await until(lambda: shows_missing(p) == "1.0", 20)
        await until(lambda: not shows_depth(p), 20)
        receipts = [await p.publish(embed(n)) for n in range(20)]
        assert {receipt.state for receipt in receipts} == {TaskState.SPOOLED}
        assert EMBED in str(receipts[-1].reason)
        assert (await p.publish(summary(1))).state is TaskState.CONFIRMED
        await asyncio.sleep(1)
        assert {row.attempts for row in await p.waiting(limit=100)} == {0}
        routes = [(event.route, event.state) for event in events if isinstance(event, RouteChanged)]
        assert routes == [(EMBED, RouteState.HELD)]
        await asyncio.to_thread(make, vhost_url)
        assert await p.drained(30)
        await until(lambda: shows_depth(p) and "it is not there" not in topology(p), 20)
        await until(lambda: shows_missing(p) == "0.0", 20)
        assert not [event for event in events if isinstance(event, TaskDeadLettered)]
    assert {receipt.task_id for receipt in receipts} <= await asyncio.to_thread(taken, vhost_url, EMBED)


async def test_a_queue_that_stays_away_past_the_patience_ends_its_tasks_as_returned(
    vhost_url: str, tmp_path: Path
) -> None:
    await asyncio.to_thread(make, vhost_url)
    given = {"ml_declare_topology": False, "ml_route_patience": 1}
    async with running(vhost_url, tmp_path, **given) as (p, events, admin):
        await admin.queue_delete(EMBED)
        await until(lambda: "it is not there" in topology(p), 20)
        await p.publish(embed(1))
        await until(lambda: any(isinstance(event, TaskDeadLettered) for event in events), 30)
        (letter,) = await p.dead_letters()
        assert (letter.reason, letter.attempts) == ("returned", 3)
        assert EMBED in letter.text
