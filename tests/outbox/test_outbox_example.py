"""The example of the outbox, run as a reader would run it: its own tables and the spool's in one database."""

from __future__ import annotations

import asyncio
import runpy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import create_engine, text

from http_bench import assert_problem
from outbox_ways import over
from places import in_queues

EXAMPLE = Path(__file__).parents[2] / "examples" / "outbox_fastapi.py"
NOWHERE = "amqp://u:p@127.0.0.1:1/"
LONG = "Call me Ishmael. " * 20


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    url: str = (
        f"sqlite:///{tmp_path / 'shop.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    )
    return url


@asynccontextmanager
async def running(
    monkeypatch: pytest.MonkeyPatch, database: str, broker: str, **more: str
) -> AsyncIterator[httpx.AsyncClient]:
    environment = {"ML_SPOOL_URL": database, "RABBITMQ_URL": broker, "ML_SHUTDOWN_TIMEOUT": "1", "ML_DRAIN_POLL": "0.1"}
    for name, value in {**environment, **more}.items():
        monkeypatch.setenv(name, value)
    app = runpy.run_path(str(EXAMPLE))["app"]
    assert isinstance(app, FastAPI)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client,
    ):
        yield client


def rows(database: str, statement: str) -> list[Any]:
    engine = create_engine(over(database, "sqlite" if database.startswith("sqlite") else "postgresql+psycopg"))
    with engine.begin() as connection:
        found = list(connection.execute(text(statement)).scalars())
    engine.dispose()
    return found


async def test_an_article_and_its_tasks_are_kept_together_and_reach_the_broker(
    monkeypatch: pytest.MonkeyPatch, database: str, vhost_url: str
) -> None:
    async with running(monkeypatch, database, vhost_url) as client:
        answer = await client.post("/articles/7", json={"text": LONG})
        assert answer.status_code == 202
        tasks = answer.json()["tasks"]
        assert list(tasks.values()) == ["spooled", "spooled"]
        async with asyncio.timeout(20):
            while set((await client.get("/articles/7")).json()["tasks"].values()) != {"confirmed"}:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        short = await client.post("/articles/8", json={"text": "Call me Ishmael."})
        assert len(short.json()["tasks"]) == 1
        assert_problem(await client.get("/articles/9"), 404, "not-found")
    assert set(tasks) <= set(await in_queues(vhost_url))


async def test_an_article_that_is_not_kept_has_no_tasks(monkeypatch: pytest.MonkeyPatch, database: str) -> None:
    async with running(monkeypatch, database, NOWHERE) as client:
        assert (await client.post("/articles/7", json={"text": LONG})).status_code == 202
        assert (await client.post("/articles/7", json={"text": LONG})).status_code == 409
        assert rows(database, "SELECT count(*) FROM mlproducer_waiting") == [2], "of the first one alone"


async def test_an_article_whose_task_is_refused_is_not_kept(monkeypatch: pytest.MonkeyPatch, database: str) -> None:
    async with running(monkeypatch, database, NOWHERE, ML_MAX_MESSAGE_BYTES="1024") as client:
        answer = await client.post("/articles/7", json={"text": "x" * 2_000})
        assert_problem(answer, 413, "task-too-large", "payload.content")
        assert rows(database, "SELECT count(*) FROM articles") == [0]


async def test_what_was_committed_before_a_crash_is_published_by_the_next_start(
    monkeypatch: pytest.MonkeyPatch, database: str, vhost_url: str
) -> None:
    async with running(monkeypatch, database, NOWHERE) as client:
        tasks = (await client.post("/articles/7", json={"text": LONG})).json()["tasks"]
    async with running(monkeypatch, database, vhost_url) as client, asyncio.timeout(20):
        while set((await client.get("/articles/7")).json()["tasks"].values()) != {"confirmed"}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    found = await in_queues(vhost_url)
    assert {task_id: found[task_id] for task_id in tasks} == dict.fromkeys(tasks, 1)
