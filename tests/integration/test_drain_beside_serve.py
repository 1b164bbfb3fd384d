"""`mlproducer drain` beside a running `mlproducer serve`: two processes on one spool, each task once."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from mlproducer import Producer, Receipt, Settings, Task
from places import in_queues
from producers import NOWHERE, SOON

COUNT = 300
SLOW = "1"
"""Tasks a second of the service's own drain: it gets to a few of them, so that both have their part."""


def task(n: object) -> Task:
    return Task(task_type="embed_vectors", payload={"share_id": f"s{n}", "content": "x"}, id=f"left-{n}")


async def left_by_an_outage(folder: Path) -> list[str]:
    async with Producer(Settings.load(ml_data_dir=folder, rabbitmq_url=NOWHERE, ml_shutdown_timeout=0.1)) as producer:
        receipts = [receipt async for receipt in producer.publish_many(task(n) for n in range(COUNT))]
    return sorted(receipt.task_id for receipt in receipts if isinstance(receipt, Receipt))


async def command(env: Mapping[str, str], *words: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mlproducer.cli", *words, stdout=PIPE, stderr=PIPE, env={**os.environ, **env}
    )


@asynccontextmanager
async def served(env: Mapping[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    process = await command(env, "serve", "--port", "0", "--json")
    assert process.stdout is not None
    try:
        url = json.loads(await process.stdout.readline())["url"]
        async with httpx.AsyncClient(base_url=url, timeout=SOON) as client:
            yield client
        process.terminate()
        _, log = await process.communicate()
        assert process.returncode == 0, log.decode()
        assert b"Traceback" not in log
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until(service: httpx.AsyncClient, true: Callable[[int], bool]) -> None:
    """Of what it says that its spool holds."""
    while not true((await service.get("/api/ml/status")).json()["spool_tasks"]):  # noqa: ASYNC110  # it tells no event
        await asyncio.sleep(0.1)


async def test_a_drain_beside_a_service_publishes_what_waits_once_and_the_service_knows_it(
    vhost_url: str, tmp_path: Path
) -> None:
    ids = await left_by_an_outage(tmp_path)
    assert len(ids) == COUNT
    env = {"ML_DATA_DIR": str(tmp_path), "RABBITMQ_URL": vhost_url, "ML_LOG_FORMAT": "json"}
    async with asyncio.timeout(100), served({**env, "ML_DRAIN_RATE": SLOW}) as service:
        await until(service, lambda tasks: tasks < COUNT)
        drain = await command(env, "drain", "--json", "--timeout", str(2 * SOON))
        out, log = await drain.communicate()
        assert drain.returncode == 0, (out, log)
        told = json.loads(out)
        assert (told["complete"], told["dead"], told["interrupted"]) == (True, 0, False)
        assert told["published"] > COUNT / 2, "the service alone would take five minutes"
        await until(service, lambda tasks: not tasks)
        queued = await in_queues(vhost_url)
        assert sorted(queued.elements()) == ids, "each once, whoever published it"
        for task_id in ids[:: COUNT // 10]:
            receipt = (await service.get(f"/api/ml/tasks/{task_id}")).json()
            assert receipt["state"] == "confirmed", "the service knows what the other one did"
        again = await service.post("/api/ml/tasks", json=task(1).model_dump(mode="json", exclude_none=True))
        assert again.json()["state"] == "confirmed", "and gives its receipt to who asks again"
        assert sum((await in_queues(vhost_url)).values()) == COUNT
