"""Whichever of producer and worker comes first, both run: real workers, on a broker that is empty before."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.integration.conftest import running
from tests.integration.test_celery_worker import payload_of

from known_workers import on_the_wire
from mlproducer import Producer, Settings, Task
from mlproducer.envelope.types import TaskTypes
from mlproducer.events import ConnectionChanged, ConnectionState, Event, TopologyDiffers
from mlproducer.testing.rabbitmq import PrivateRabbit

TYPE = """
[task_types.{name}.routes.api]
celery_task = "plain.work"
queue = "{name}"
{more}
[task_types.{name}.fields]
number = "integer"
"""
TOLD = {"classic": 'queue_type = "classic"', "quorum": 'queue_type = "quorum"\narguments = {}'}
NEWEST = "newest"


def settings(url: str, folder: Path, told: dict[str, str]) -> Settings:
    file = folder / "types.toml"
    file.write_text("".join(TYPE.format(name=name, more=more) for name, more in told.items()))
    return Settings.load(rabbitmq_url=url, ml_data_dir=folder, ml_task_types=file, ml_log_level="error")


def connects(events: list[Event]) -> list[Event]:
    return [
        event for event in events if isinstance(event, ConnectionChanged) and event.state is ConnectionState.CONNECTED
    ]


async def publish(producer: Producer) -> list[str]:
    async with asyncio.timeout(20):
        while not producer.is_healthy():  # noqa: ASYNC110  # a link tells no event here
            await asyncio.sleep(0.05)
    receipts = [await producer.publish(Task(task_type=name, payload={"number": 7})) for name in TOLD]
    return [receipt.task_id for receipt in receipts]


async def test_a_worker_that_comes_second_finds_its_queues_as_it_declares_them(
    rabbit: PrivateRabbit, tmp_path: Path
) -> None:
    url = rabbit.add_vhost("producer-first")
    async with Producer(settings(url, tmp_path, TOLD)) as producer:
        ids = await publish(producer)
    with running(NEWEST, url, tmp_path, "plain_app") as worker:
        notes = await asyncio.to_thread(worker.done, *ids)
    assert {note["queue"] for note in notes.values()} == {"classic", "quorum"}


async def test_queues_that_a_worker_made_first_are_used_as_they_are_and_it_is_said_once(
    rabbit: PrivateRabbit, tmp_path: Path
) -> None:
    url, events = rabbit.add_vhost("worker-first"), list[Event]()
    with running(NEWEST, url, tmp_path, "plain_app") as worker:
        async with Producer(settings(url, tmp_path, dict.fromkeys(TOLD, "")), listeners=[events.append]) as producer:
            ids = await publish(producer)
            producer.reconnect()
            async with asyncio.timeout(20):
                while len(connects(events)) < 2:  # noqa: ASYNC110  # a listener sets no event here; two links
                    await asyncio.sleep(0.05)
            ids += await publish(producer)
            await asyncio.to_thread(worker.done, *ids)
            told = [event for event in events if isinstance(event, TopologyDiffers)]
            assert sorted(event.name for event in told) == ["classic", "quorum"], "once, not at each connect"
            assert all("used as it is" in event.text and not event.broken for event in told), told
            assert producer.health().status == "ok"


@pytest.mark.parametrize("version", ["newest", "5.4"])
async def test_the_known_workers_run_after_a_producer_that_was_there_first(
    rabbit: PrivateRabbit, tmp_path: Path, version: str
) -> None:
    url = rabbit.add_vhost(f"known-second-{version}")
    tasks = [
        Task(task_type=kind, backend=backend, payload=payload_of(kind))
        for kind in TaskTypes.builtin().names
        for backend in ("api", "local")
    ]
    async with Producer(Settings.load(rabbitmq_url=url, ml_data_dir=tmp_path, ml_log_level="error")) as producer:
        assert await producer.connected(20)
        assert all([(await producer.publish(task)).confirmed for task in tasks])
    with running(version, url, tmp_path) as worker:
        notes = await asyncio.to_thread(worker.done, *(task.id for task in tasks))
    assert {task_id: note["kwargs"] for task_id, note in notes.items()} == {
        task.id: on_the_wire(task.task_type, task.payload, task.backend) for task in tasks
    }
