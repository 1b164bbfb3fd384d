"""Rights that are lost and exchanges that are gone, on a real broker: one fault, nothing dead, all of it told."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from engine_bench import until
from mlproducer import Producer, Receipt, Settings, Task, TaskState
from mlproducer.amqp.config import Credentials
from mlproducer.events import ConnectionChanged, ConnectionState, Event, RouteChanged, RouteState, TaskDeadLettered
from mlproducer.outcome import EVERY_ROUTE
from mlproducer.reliability.judge import QUEUES
from mlproducer.reliability.reader import Reader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mlproducer.testing.rabbitmq import PrivateRabbit

FAST: dict[str, Any] = {
    "ml_retry_first": 0.1,
    "ml_retry_cap": 0.5,
    "ml_drain_poll": 0.05,
    "ml_reconnect_first": 0.05,
    "ml_health_interval": 1.0,
}
LOAD = 60


def task(n: int) -> Task:
    kinds = (
        ("embed_vectors", f"text {n}"),
        ("summarize_llm", f"text {n}"),
        ("transcribe_whisper", f"https://example.org/{n}.mp3"),
    )
    task_type, content = kinds[n % 3]
    return Task(task_type=task_type, payload={"share_id": f"s{n}", "content": content})


@asynccontextmanager
async def running(
    node: PrivateRabbit, folder: Path, credentials: Any = None, **given: Any
) -> AsyncIterator[tuple[Producer, list[Event]]]:
    """A producer that has used three routes."""
    events: list[Event] = []
    settings = Settings.load(**{**FAST, "rabbitmq_url": node.url, "ml_data_dir": folder, **given})
    async with (
        asyncio.timeout(90),
        Producer(settings, listeners=[events.append], credentials=credentials) as p,
    ):
        assert await p.connected(20), p.status().last_error
        assert {(await p.publish(task(n))).state for n in range(3)} == {TaskState.CONFIRMED}
        yield p, events


async def load(p: Producer) -> list[Receipt]:
    return list(await asyncio.gather(*(p.publish(task(n)) for n in range(LOAD))))


def ids_in_queues(node: PrivateRabbit) -> Counter[str]:
    """Takes all that is in the queues."""
    with Reader(node.url) as reader:
        return Counter(message.task_id for queue in QUEUES for message in reader.take(queue))


def of_routes(events: list[Event]) -> list[tuple[str, RouteState]]:
    return [(event.route, event.state) for event in events if isinstance(event, RouteChanged)]


async def test_a_right_that_is_gone_for_a_while_kills_no_task(own_rabbit: PrivateRabbit, tmp_path: Path) -> None:
    node = own_rabbit
    async with running(node, tmp_path) as (p, events):
        await asyncio.to_thread(node.set_permissions, "/", write="")
        try:
            # A channel remembers what was allowed: a new connection asks anew.
            await asyncio.to_thread(node.close_connections)
            await until(lambda: p.status().connection != "connected", 20)
            await until(p.is_healthy, 20)
            receipts = await load(p)
            await asyncio.sleep(2)
            rows = await p.waiting(limit=1_000)
            health = {check.name: check.detail for check in p.health().checks}
        finally:
            await asyncio.to_thread(node.set_permissions, "/")
        assert {receipt.state for receipt in receipts} == {TaskState.SPOOLED}
        assert {row.attempts for row in rows} == {0}
        assert "refused for user 'ml'" in health["routes"]
        assert "all routes of the exchange" in health["routes"]
        assert await p.drained(30)
        assert not [event for event in events if isinstance(event, TaskDeadLettered)]
        assert of_routes(events) == [(EVERY_ROUTE, RouteState.HELD), (EVERY_ROUTE, RouteState.OPEN)]
    found = await asyncio.to_thread(ids_in_queues, node)
    assert {receipt.task_id for receipt in receipts} <= found.keys()
    assert found.total() == LOAD + 3, "nothing was published twice"
    # Channels that were refused: the first, its neighbours of that moment, and one for each probe of two seconds.
    assert node.log.read_text().count("refused for user 'ml'") < 30


async def test_an_exchange_that_is_deleted_is_made_again_with_its_bindings(
    own_rabbit: PrivateRabbit, tmp_path: Path
) -> None:
    node = own_rabbit
    gone = 'rabbit_exchange:delete({resource, <<"/">>, exchange, <<"ml.tasks">>}, false, <<"test">>).'
    async with running(node, tmp_path) as (p, events):
        await asyncio.to_thread(node.eval, gone)
        receipts = await load(p)
        assert all(receipts)
        assert await p.drained(30)
        assert not [event for event in events if isinstance(event, TaskDeadLettered)]
        assert {route for route, _ in of_routes(events)} <= {EVERY_ROUTE}
        assert {(await p.publish(task(n))).state for n in range(3)} == {TaskState.CONFIRMED}
    assert {receipt.task_id for receipt in receipts} <= (await asyncio.to_thread(ids_in_queues, node)).keys()


async def test_credentials_that_end_are_asked_for_anew(own_rabbit: PrivateRabbit, tmp_path: Path) -> None:
    """The old user loses its right for good; the callback names the new one, after a while."""
    node, user, fresh = own_rabbit, "ml", f"fresh-{tmp_path.name}"
    asked: list[str] = []

    async def credentials() -> Credentials:
        asked.append(user)
        return Credentials(user, node.password)

    await asyncio.to_thread(node.add_user, fresh, node.password)
    await asyncio.to_thread(node.set_permissions, "/", user=fresh)
    try:
        async with running(node, tmp_path, credentials) as (p, events):
            await asyncio.to_thread(node.set_permissions, "/", write="")
            await asyncio.to_thread(node.close_connections)
            await until(lambda: len(asked) == 2, 20)
            await until(p.is_healthy, 20)
            await load(p)
            await until(lambda: len(asked) >= 4, 20)
            user = fresh
            assert await p.drained(30)
            assert not [event for event in events if isinstance(event, TaskDeadLettered)]
            links = [event for event in events if isinstance(event, ConnectionChanged)]
            connected = sum(event.state is ConnectionState.CONNECTED for event in links)
            assert connected <= len(asked) < 40
            assert (await p.publish(task(0))).state is TaskState.CONFIRMED
    finally:
        await asyncio.to_thread(node.set_permissions, "/")
    assert asked[-1] == fresh
