"""What real Celery workers tell of their tasks, by events from the broker and over HTTP: counted, and once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import HERE, running
from tests.integration.test_celery_worker import publish

from known_workers import PlainFields
from making_queues import close_connections, consumed_queues
from mlproducer import Producer, Settings
from mlproducer.analytics.consumer import QUEUE
from mlproducer.core.figures import Figures
from mlproducer.envelope.encode import Encoder
from mlproducer.envelope.types import Route, TaskType, TaskTypes
from mlproducer.http.server import Service
from mlproducer.task import Task
from mlproducer.testing.rabbitmq import PrivateRabbit

TYPE = TaskType("transcribe_long", {"api": Route("reporting.tasks.transcribe", "ml.transcribe")}, PlainFields)
ENCODER = Encoder(TaskTypes.builtin().with_([TYPE]), "mlproducer@test", 1_000_000)
PATHS = os.pathsep.join(map(str, (HERE, HERE.parent.parent / "src")))
KEY = "0123456789abcdef-results"
SOON = 30.0


def task(content: str = "well") -> Task:
    return Task(task_type=TYPE.name, payload={"share_id": "s", "content": content})


def settings(url: str, folder: Path, **given: Any) -> Settings:
    return Settings.load(rabbitmq_url=url, ml_data_dir=folder, ml_analytics_flush=0.2, **given)


async def of(producer: Producer) -> Figures | None:
    return (await producer.analytics.summary()).by_type.get(TYPE.name)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SOON):
        while not await true():  # noqa: ASYNC110  # what is awaited has no event
            await asyncio.sleep(0.1)


async def listening(rabbit: PrivateRabbit, url: str) -> None:
    """Until the events are read. Nothing that is published waits for that; what workers tell before is told nobody."""

    async def read() -> bool:
        return QUEUE in await asyncio.to_thread(consumed_queues, rabbit, url)

    await until(read)


async def test_events_of_a_worker_are_counted_once_through_restarts_and_lost_connections(
    rabbit: PrivateRabbit, tmp_path: Path
) -> None:
    url = rabbit.add_vhost("results-events")
    given = settings(url, tmp_path, ml_celery_events="celeryev")
    with running("newest", url, tmp_path, "reporting_app", {"PYTHONPATH": PATHS}, ["-E"]) as worker:
        async with Producer(given, task_types=[TYPE]) as producer:
            await producer.connected(10)
            await listening(rabbit, url)
            first, bad, again = task(), task("fail"), task("retry")
            for each in (first, bad, again):
                await producer.publish(each)

            async def all_told() -> bool:
                found = await of(producer)
                return found is not None and found.succeeded + found.failed == 3

            await until(all_told)
            found = await of(producer)
            assert found is not None
            assert (found.succeeded, found.failed, found.work.count) == (2, 1, 2)
            # Each run costs: three tasks, and one that was retried.
            assert found.cost == 4 * Decimal("0.101")
            models = (await producer.analytics.transcription_costs()).by_model
            assert {name: cost.reports for name, cost in models.items()} == {
                "transcribe_long/large": 4,
                "transcribe_long/small": 4,
            }
            await asyncio.to_thread(close_connections, rabbit, url)
        # Nobody reads while these run: one that is new, and a copy of one that was done.
        late = ENCODER.encode(task())
        await asyncio.to_thread(publish, url, late, ENCODER.encode(first))
        await asyncio.to_thread(worker.wait_for, "run", 6)
        async with Producer(given, task_types=[TYPE]) as producer:

            async def late_told() -> bool:
                found = await of(producer)
                return found is not None and found.succeeded == 3

            await until(late_told)
            await asyncio.sleep(1.5)  # a second count of the copy would come now
            found = await of(producer)
            assert found is not None
            assert (found.succeeded, found.failed, found.cost) == (3, 1, 5 * Decimal("0.101"))


@asynccontextmanager
async def serving(given: Settings) -> AsyncIterator[tuple[Producer, str]]:
    producer = Producer(given, task_types=[TYPE])
    service = Service(given, producer)
    ready, stop = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(service.run(ready=ready, stop=stop))
    try:
        async with asyncio.timeout(SOON):
            await ready.wait()
        yield producer, service.url
    finally:
        stop.set()
        await serving


@pytest.mark.parametrize("version", ["newest", pytest.param("5.4", marks=pytest.mark.chaos)])
async def test_a_worker_posts_its_results_and_they_count_once_beside_its_events(
    version: str, rabbit: PrivateRabbit, tmp_path: Path
) -> None:
    url = rabbit.add_vhost(f"results-http-{version}")
    given = settings(url, tmp_path, ml_port=0, ml_api_keys=KEY, ml_celery_events="celeryev")
    async with serving(given) as (producer, service_url):
        more = {"PYTHONPATH": PATHS, "ML_RESULTS_URL": service_url, "ML_RESULTS_KEY": KEY}
        with running(version, url, tmp_path, "reporting_app", more, ["-E"]):
            await producer.connected(10)
            await listening(rabbit, url)
            for content in ("well", "fail", "retry"):
                await producer.publish(task(content))

            async def all_told() -> bool:
                found = await of(producer)
                return found is not None and found.cost == 4 * Decimal("0.101") and found.succeeded + found.failed == 3

            await until(all_told)
            await asyncio.sleep(1.5)  # what came by the other way too would be counted again now
            found = await of(producer)
            assert found is not None
            assert (found.succeeded, found.failed, found.cost) == (2, 1, 4 * Decimal("0.101"))
