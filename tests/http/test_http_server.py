"""The real server: bound, over a socket, stopped in order; with the broker down, and with a real RabbitMQ."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from http_bench import FAST, embed, embed_line
from mlproducer import Producer, Settings, SettingsError, SpoolUnavailable, TaskState
from mlproducer.http.server import Service, bind, serve

NDJSON = {"Content-Type": "application/x-ndjson"}


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The service on any free port, until the end of the block."""
    service = Service(settings)
    ready, stop = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(service.run(ready=ready, stop=stop))
    try:
        async with asyncio.timeout(10):
            await ready.wait()
        async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
            yield client
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await running


async def test_it_starts_and_spools_though_the_broker_is_down(tmp_path: Path) -> None:
    settings = Settings.load(**{**FAST, "ml_spool_url": "", "ml_data_dir": tmp_path, "ml_port": 0})
    async with served(settings) as client:
        answer = await client.post("/api/ml/tasks", json=embed(id="t1"))
        assert (answer.status_code, answer.json()["state"]) == (202, "spooled")
        assert (await client.get("/api/ml/health")).json()["status"] == "degraded"
    async with served(settings) as client:
        assert (await client.get("/api/ml/tasks/t1")).json()["state"] == "spooled"


async def test_what_is_posted_is_confirmed_by_a_real_broker(vhost_url: str, tmp_path: Path) -> None:
    settings = Settings.load(rabbitmq_url=vhost_url, ml_data_dir=tmp_path, ml_port=0)
    async with served(settings) as client:
        async with asyncio.timeout(20):
            while (await client.get("/api/ml/status")).json()["connection"] != "connected":  # noqa: ASYNC110  # a service tells no event
                await asyncio.sleep(0.05)
        answer = await client.post("/api/ml/tasks", json=embed())
        assert (answer.status_code, answer.json()["state"]) == (201, "confirmed")
        body = b"\n".join(embed_line(n) for n in range(2_000))
        answer = await client.post("/api/ml/tasks/batch", content=body, headers=NDJSON)
        lines = [json.loads(line) for line in answer.text.splitlines()]
        assert sorted(each["line"] for each in lines) == list(range(1, 2_001))
        assert {each["state"] for each in lines} == {"confirmed"}


async def test_a_chunked_body_over_the_limit_is_413_over_a_real_socket() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield b" " * 1024

    async with served(Settings.load(**{**FAST, "ml_port": 0, "ml_max_body_bytes": 2048})) as client:
        answer = await client.post("/api/ml/tasks", content=chunks(), headers={"Content-Type": "application/json"})
        assert answer.status_code == 413
        assert (await client.get("/api/ml/health/live")).status_code == 200


def test_a_host_that_is_not_ours_names_the_setting() -> None:
    with pytest.raises(SettingsError, match=r"ML_HOST: 192\.0\.2\.1 is no address of this machine"):
        bind("192.0.2.1", 0)


async def test_without_keys_it_does_not_bind_to_the_network() -> None:
    with pytest.raises(SettingsError, match="ML_API_KEYS"):
        await serve(Settings.load(**{**FAST, "ml_host": "0.0.0.0", "ml_port": 0}))  # noqa: S104  # what is tested


async def test_a_data_folder_that_cannot_be_written_ends_it_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    settings = Settings.load(**{**FAST, "ml_spool_url": "", "ml_data_dir": tmp_path / "file" / "data", "ml_port": 0})
    with pytest.raises(SpoolUnavailable):
        await serve(settings, stop=asyncio.Event())


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_stops_the_process_in_order(sign: signal.Signals, tmp_path: Path) -> None:
    program = (
        "import asyncio, json\n"
        "from mlproducer import Settings\n"
        "from mlproducer.http.server import Service\n"
        "async def main():\n"
        "    service, ready = Service(Settings.load()), asyncio.Event()\n"
        "    running = asyncio.create_task(service.run(ready=ready))\n"
        "    await ready.wait()\n"
        "    print(service.url, flush=True)\n"
        "    await running\n"
        "    print('stopped', flush=True)\n"
        "asyncio.run(main())\n"
    )
    environment = {
        **os.environ,
        "ML_PORT": "0",
        "ML_DATA_DIR": str(tmp_path),
        "RABBITMQ_URL": "amqp://ml:ml_password@127.0.0.1:1/",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, env=environment, cwd=tmp_path
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            url = (await process.stdout.readline()).decode().strip()
            async with httpx.AsyncClient(base_url=url) as client:
                assert (await client.post("/api/ml/tasks", json=embed(id="t1"))).status_code == 202
            process.send_signal(sign)
            rest, _ = await process.communicate()
        assert rest == b"stopped\n"
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    settings = Settings.load(**{**FAST, "ml_spool_url": "", "ml_data_dir": tmp_path})
    async with Producer(settings) as producer:
        assert (await producer.receipt("t1")).state is TaskState.SPOOLED
