"""What the library, the command line and the HTTP service publish is run by real Celery workers."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx

from known_workers import on_the_wire
from mlproducer.envelope.types import TaskTypes
from mlproducer.settings import Settings
from mlproducer.task import Receipt, Task, TaskState
from mlproducer.testing.rabbitmq import free_port
from mlproducer.wiring import Producer

if TYPE_CHECKING:
    from tests.integration.conftest import Worker

TYPES = TaskTypes.builtin()
PROGRAM = Path(sys.executable).with_name("mlproducer")
START_TIMEOUT = 60.0
MEDIA = "https://media.example.com/talk.mp3"


def payload_of(task_type: str, content: str) -> dict[str, Any]:
    one = {"share_id": f"share-{content}", "content": f"text {content}, \u00fcber \u6587\u7ae0"}
    return {"tasks": [one, one], "options": {"n": 1}} if "batch" in task_type else {**one, "options": {"n": 1}}


def settings_for(worker: Worker, folder: Path) -> Settings:
    return Settings.load(rabbitmq_url=worker.url, ml_data_dir=folder, ml_log_level="error")


async def test_what_the_library_publishes_is_run_with_its_keyword_arguments(worker: Worker, tmp_path: Path) -> None:
    batch: list[dict[str, object]] = [
        {"share_id": "s-4", "content": "four"},
        {"share_id": "s-5", "content": {"text": "five", "type": "tweet"}},
    ]
    async with Producer(settings_for(worker, tmp_path)) as producer:
        assert await producer.connected(10)
        receipts = [
            await producer.publish_summarization_task("s-1", "one", options={"maxLength": 80}, backend="local"),
            await producer.publish_transcription_task("s-2", "https://media.example/talk.mp3", root_id="r", group="g"),
            await producer.publish_embedding_task("s-3", "three", id="chosen-id-of-" + worker.version),
            await producer.publish_batch_embedding_task(batch),
            await producer.publish_video_summary_task("s-6", {"transcript": "six", "hashtags": ["a"]}),
        ]
    assert [receipt.state for receipt in receipts] == [TaskState.CONFIRMED] * 5
    assert receipts[2].task_id == "chosen-id-of-" + worker.version
    notes = await asyncio.to_thread(worker.done, *(receipt.task_id for receipt in receipts))
    assert [notes[receipt.task_id]["kwargs"] for receipt in receipts] == [
        on_the_wire("summarize_llm", {"share_id": "s-1", "content": "one", "options": {"maxLength": 80}}, "local"),
        on_the_wire("transcribe_whisper", {"share_id": "s-2", "content": "https://media.example/talk.mp3"}),
        on_the_wire("embed_vectors", {"share_id": "s-3", "content": "three"}),
        on_the_wire("embed_vectors_batch", {"tasks": batch}),
        on_the_wire(
            "summarize_video_combined", {"share_id": "s-6", "content": {"transcript": "six", "hashtags": ["a"]}}
        ),
    ]
    assert [notes[receipt.task_id]["queue"] for receipt in receipts] == [
        "ml.summarize_local",
        "ml.transcribe",
        "ml.embed",
        "ml.embed",
        "ml.summarize",
    ]
    assert notes[receipts[1].task_id]["root_id"] == "r"
    assert notes[receipts[1].task_id]["group"] == "g"


async def test_values_that_json_does_not_have_arrive_as_they_were(worker: Worker, tmp_path: Path) -> None:
    values = {
        "uuid": UUID(int=7),
        "datetime": datetime(2030, 1, 31, 12, 30, 15, 250_000, UTC),
        "offset": datetime(2030, 1, 31, tzinfo=timezone(timedelta(hours=5, minutes=45))),
        "date": date(2030, 1, 31),
        "time": dt.time(1, 2, 3),
        "decimal": Decimal("1.10"),
        "bytes": b"text",
        "more_bytes": b"\xff\x00",
    }
    async with Producer(settings_for(worker, tmp_path)) as producer:
        assert await producer.connected(10)
        receipt = await producer.publish_summarization_task("s-1", "one", options={**values, "nested": [values]})
    options = (await asyncio.to_thread(worker.done, receipt.task_id))[receipt.task_id]["kwargs"]["options"]
    # The worker's notes hold the `repr` of what JSON has no form for: type and value.
    there = {name: repr(value) for name, value in values.items()}
    assert options == {**there, "nested": [there], "backend": "api"}


async def test_a_stream_that_the_library_publishes_is_run_whole(worker: Worker, tmp_path: Path) -> None:
    tasks = [Task(task_type=kind, payload=payload_of(kind, str(n))) for n in range(150) for kind in TYPES.names]
    async with Producer(settings_for(worker, tmp_path)) as producer:
        assert await producer.connected(10)
        results = [result async for result in producer.publish_many(tasks)]
    assert all(isinstance(result, Receipt) for result in results)
    notes = await asyncio.to_thread(worker.done, *(task.id for task in tasks))
    assert {task_id: note["kwargs"] for task_id, note in notes.items()} == {
        task.id: on_the_wire(task.task_type, task.payload) for task in tasks
    }


async def test_a_task_with_an_eta_waits_in_the_spool_and_not_in_the_worker(worker: Worker, tmp_path: Path) -> None:
    eta = datetime.now(UTC) + timedelta(seconds=1.5)
    async with Producer(settings_for(worker, tmp_path)) as producer:
        assert await producer.connected(10)
        receipt = await producer.publish_embedding_task("s", "later", eta=eta)
        assert receipt.state is TaskState.SPOOLED
        note = (await asyncio.to_thread(worker.done, receipt.task_id))[receipt.task_id]
    assert note["at"] >= eta.timestamp()
    assert note["kwargs"]["content"]["text"] == "later"


def environment_for(worker: Worker, folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "RABBITMQ_URL": worker.url, "ML_DATA_DIR": str(folder), **more}


def test_what_the_command_line_publishes_is_run(worker: Worker, tmp_path: Path) -> None:
    tasks = [Task(task_type=kind, payload=payload_of(kind, str(n))) for n in range(10) for kind in TYPES.names]
    lines = "".join(f"{task.model_dump_json()}\n" for task in tasks)
    done = subprocess.run(
        [PROGRAM, "publish", "-", "--json"],
        input=lines.encode(),
        env=environment_for(worker, tmp_path),
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    notes = worker.done(*(task.id for task in tasks))
    assert {task_id: note["kwargs"] for task_id, note in notes.items()} == {
        task.id: on_the_wire(task.task_type, task.payload) for task in tasks
    }


@contextmanager
def serving(worker: Worker, folder: Path) -> Iterator[httpx.Client]:
    """The service as a process of its own, connected, and a client for it."""
    port = str(free_port())
    with (
        (folder / "serve.log").open("wb") as log,
        subprocess.Popen(
            [PROGRAM, "serve"], env=environment_for(worker, folder, ML_PORT=port), cwd=folder, stdout=log, stderr=log
        ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client,
    ):
        try:
            end = time.monotonic() + START_TIMEOUT
            while not _connected(client):
                text = (folder / "serve.log").read_text()
                assert process.poll() is None, f"the service stopped:\n{text}"
                assert time.monotonic() < end, f"the service is not connected:\n{text}"
                time.sleep(0.1)
            yield client
        finally:
            process.terminate()
            process.wait(30)


def _connected(client: httpx.Client) -> bool:
    # Not `/health/ready`: the service is ready as soon as it can spool, before it has a connection.
    try:
        return bool(client.get("/api/ml/status").raise_for_status().json()["connection"] == "connected")
    except httpx.TransportError:
        return False


def test_what_the_http_service_takes_is_run(worker: Worker, tmp_path: Path) -> None:
    one, *batch = (Task(task_type=kind, payload=payload_of(kind, str(n))) for n in range(10) for kind in TYPES.names)
    with serving(worker, tmp_path) as client:
        taken = client.post("/api/ml/tasks", json=one.model_dump(mode="json"))
        assert (taken.status_code, taken.json()["task_id"]) == (httpx.codes.CREATED, one.id)
        lines = "".join(f"{task.model_dump_json()}\n" for task in batch)
        streamed = client.post(
            "/api/ml/tasks/batch", content=lines.encode(), headers={"content-type": "application/x-ndjson"}
        )
        assert streamed.status_code == httpx.codes.OK
        assert len(streamed.text.splitlines()) == len(batch)
        share = {"id": f"s-{worker.version}", "title": "One", "text": "word " * 80, "media_url": MEDIA}
        shared = client.post("/api/shares", json=share).raise_for_status().json()["receipts"]
        notes = worker.done(one.id, *(task.id for task in batch))
        of_share = worker.done(*(receipt["task_id"] for receipt in shared))
    assert {task_id: note["kwargs"] for task_id, note in notes.items()} == {
        task.id: on_the_wire(task.task_type, task.payload) for task in (one, *batch)
    }
    text = share["text"].strip()
    assert {note["task"]: note["read"] for note in of_share.values()} == {
        "vector_service.tasks.generate_embeddings": f"One\n\n{text}",
        "llm_service.tasks.summarize_content": text,
        "whisper.tasks.transcribe_api": MEDIA,
    }
