"""A producer in somebody's own FastAPI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI

from http_bench import FAST, assert_problem, embed
from mlproducer import NotAccepting, Producer, Settings, SettingsError, Task
from mlproducer.http import create_app, get_producer, lifespan_for, router


def client_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1:8000")


@pytest.fixture
def broker_is_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RABBITMQ_URL", "amqp://ml:ml_password@127.0.0.1:1/")
    monkeypatch.setenv("ML_DATA_DIR", str(tmp_path))


async def test_a_lifespan_within_ones_own_starts_and_stops_the_producer() -> None:
    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan_for(Settings.load(**FAST))(app):
            yield

    app = FastAPI(lifespan=own)
    held: list[Producer] = []

    @app.get("/state")
    async def state(producer: Annotated[Producer, Depends(get_producer)]) -> str:
        held.append(producer)
        return producer.status().connection

    async with app.router.lifespan_context(app), client_of(app) as client:
        assert (await client.get("/state")).status_code == 200
        assert (await client.get("/api/ml/status")).status_code == 404
    with pytest.raises(NotAccepting):
        await held[0].publish(Task.model_validate(embed()))


async def test_without_our_lifespan_the_error_says_what_to_do() -> None:
    app = FastAPI()
    app.include_router(router)
    async with client_of(app) as client:
        with pytest.raises(RuntimeError, match=r"lifespan=mlproducer\.http\.lifespan"):
            await client.get("/api/ml/status")


async def test_create_app_without_a_producer_makes_one_that_lives_with_the_application() -> None:
    app = create_app(Settings.load(**FAST))
    async with app.router.lifespan_context(app), client_of(app) as client:
        assert (await client.post("/api/ml/tasks", json=embed())).status_code == 202


async def test_a_router_in_an_application_on_the_network_serves_no_other_machine_without_keys() -> None:
    app = FastAPI(lifespan=lifespan_for(Settings.load(**FAST)))
    app.include_router(router)
    transport = httpx.ASGITransport(app=app, client=("192.0.2.7", 40_000))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        assert_problem(await client.post("/api/ml/tasks", json=embed()), 403, "forbidden")


@pytest.mark.usefixtures("broker_is_down")
async def test_a_wrong_setting_stops_the_application_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PORT", "many")
    app = FastAPI(lifespan=lifespan_for())
    with pytest.raises(SettingsError, match="ML_PORT"):
        async with app.router.lifespan_context(app):
            raise AssertionError("it started")
