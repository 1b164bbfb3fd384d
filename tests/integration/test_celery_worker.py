"""Real Celery workers, the newest and 5.4, run what our encoder made: their own notes say what they were given."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from amqp import Connection  # type: ignore[import-untyped]  # py-amqp ships no types
from pamqp import frame
from pamqp.commands import Basic

from mlproducer.envelope.encode import Encoder, attempt_properties
from mlproducer.envelope.types import TaskTypes
from mlproducer.settings import Settings
from mlproducer.task import Envelope, Receipt, Task, TaskState
from mlproducer.testing.rabbitmq import PrivateRabbit
from mlproducer.wiring import Producer

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
WORKERS = {"newest": Path(sys.prefix), "5.4": ROOT / ".venv-celery54"}
START_TIMEOUT = 60.0
WORK_TIMEOUT = 30.0

TYPES = TaskTypes.builtin()
ENCODER = Encoder(TYPES, "mlproducer@test", 8 * 1024 * 1024)


@dataclass(frozen=True)
class Worker:
    """A running worker, the broker that it reads, and what it noted."""

    version: str
    url: str
    notes: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return self.notes.with_suffix(".log").read_text()

    def noted(self, what: str) -> list[dict[str, Any]]:
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [line for line in map(json.loads, lines) if line["what"] == what]

    def wait_for(self, what: str, count: int, timeout: float = WORK_TIMEOUT) -> list[dict[str, Any]]:
        """The notes of the kind, once there are `count`; a worker that stopped is reported with its log."""
        end = time.monotonic() + timeout
        while len(found := self.noted(what)) < count:
            assert self.process.poll() is None, f"the worker stopped:\n{self.log}"
            assert time.monotonic() < end, f"{len(found)} of {count} {what} after {timeout} s:\n{self.log}"
            time.sleep(0.05)
        return found

    def wait_for_log(self, text: str) -> None:
        end = time.monotonic() + WORK_TIMEOUT
        while text not in self.log and time.monotonic() < end:
            time.sleep(0.05)
        assert text in self.log

    def done(self, *task_ids: str) -> dict[str, dict[str, Any]]:
        """What the worker noted of each of these tasks, each run exactly once."""
        end = time.monotonic() + WORK_TIMEOUT
        while True:
            assert self.process.poll() is None, f"the worker stopped:\n{self.log}"
            found = [note for note in self.noted("done") if note["id"] in task_ids]
            if len(found) >= len(task_ids) or time.monotonic() > end:
                break
            time.sleep(0.05)
        assert sorted(note["id"] for note in found) == sorted(task_ids)
        return {note["id"]: note for note in found}


@contextmanager
def running(version: str, url: str, folder: Path) -> Iterator[Worker]:
    """A worker of the virtual environment, until the end of the block."""
    environment = WORKERS[version]
    program = environment / "bin" / "celery"
    assert program.exists(), (
        f"{environment.name} has no Celery: `make test` creates it, or by hand: python3 -m venv {environment.name} && "
        f"{environment.name}/bin/pip install --require-hashes -r requirements/celery54.txt"
    )
    notes = folder / "worker.jsonl"
    command = [str(program), "-A", "celery_app", "worker", "--pool", "solo", "--loglevel", "INFO"]
    settings = {**os.environ, "WORKER_BROKER": url, "WORKER_NOTES": str(notes), "PYTHONPATH": str(HERE)}
    with (
        notes.with_suffix(".log").open("wb") as log,
        subprocess.Popen(command, cwd=folder, env=settings, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        try:
            worker = Worker(version, url, notes, process)
            worker.wait_for("ready", 1, START_TIMEOUT)
            yield worker
            assert process.poll() is None, "the worker stopped during the test"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def publish(url: str, *envelopes: Envelope, now: float | None = None) -> None:
    """Write the very bytes of the envelopes through a client that is not ours, and wait for the broker's acks.

    Raises: AssertionError, if a message was returned as unroutable.
    """
    parts = urlsplit(url)
    link = Connection(
        f"{parts.hostname}:{parts.port}", parts.username, parts.password, virtual_host=unquote(parts.path[1:])
    )
    link.connect()
    try:
        channel = link.channel()
        channel.confirm_select()
        acked: set[int] = set()
        returned: list[object] = []
        channel.events["basic_ack"].add(lambda tag, multiple: acked.update(range(1, tag + 1) if multiple else {tag}))
        channel.events["basic_return"].add(lambda *what: returned.append(what))
        for number, envelope in enumerate(envelopes):
            properties = attempt_properties(envelope, f"attempt-{number}".encode(), time.time() if now is None else now)
            link.transport.write(frames(envelope, properties, link.frame_max))
        while len(acked) < len(envelopes):
            link.drain_events(timeout=WORK_TIMEOUT)
        assert not returned
    finally:
        link.close()


def frames(envelope: Envelope, properties: bytes, frame_max: int) -> bytes:
    method = Basic.Publish(exchange="ml.tasks", routing_key=envelope.routing_key, mandatory=True)
    body, step = envelope.body, frame_max - 8
    parts = [(2, Basic.frame_id.to_bytes(2) + b"\x00\x00" + len(body).to_bytes(8) + properties)]
    parts += [(3, body[at : at + step]) for at in range(0, len(body), step)]
    framed = (kind.to_bytes() + b"\x00\x01" + len(part).to_bytes(4) + part + b"\xce" for kind, part in parts)
    return frame.marshal(method, 1) + b"".join(framed)


@pytest.fixture(scope="module", params=list(WORKERS))
def worker(
    request: pytest.FixtureRequest, rabbit: PrivateRabbit, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    """One worker of each version, on a vhost of its own."""
    version: str = request.param
    url = rabbit.add_vhost(f"celery-{version}")
    with running(version, url, tmp_path_factory.mktemp("celery")) as started:
        yield started


def payload_of(task_type: str, content: str = "Ein Text, 文章, \U0001f600.") -> dict[str, Any]:
    options = {"n": 2**62, "half": 0.5, "none": None, "flag": True, "list": [1, {"deep": ["x"]}], "ключ": ""}
    one = {"share_id": "share-1", "content": content}
    if task_type == "embed_vectors_batch":
        return {"items": [one, {"share_id": "share-2", "content": "two"}], "options": options}
    return {**one, "options": options}


def test_the_workers_are_of_the_versions_that_we_say(worker: Worker) -> None:
    (ready,) = worker.noted("ready")
    found = tuple(int(part) for part in ready["version"].split(".")[:2])
    assert found == (5, 4) if worker.version == "5.4" else found >= (5, 6)


@pytest.mark.parametrize("backend", ["api", "local"])
@pytest.mark.parametrize("task_type", TYPES.names)
def test_a_worker_sees_the_payload_as_keyword_arguments_and_the_task_id(
    worker: Worker, task_type: str, backend: str
) -> None:
    task = Task(task_type=task_type, backend=backend, payload=payload_of(task_type), priority=5)
    _, route = TYPES.resolve(task)

    publish(worker.url, ENCODER.encode(task))

    note = worker.done(task.id)[task.id]
    assert (note["task"], note["queue"]) == (route.celery_task, route.queue)
    assert (note["args"], note["kwargs"]) == ([], task.payload)
    assert (note["id"], note["correlation_id"], note["root_id"]) == (task.id, task.id, task.id)
    assert (note["parent_id"], note["group"], note["group_index"]) == (None, None, None)
    assert (note["retries"], note["priority"], note["headers"]) == (0, 5, None)


def test_a_worker_sees_the_family_and_the_callers_headers(worker: Worker) -> None:
    headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tenant": "Zürich"}
    task = Task(
        task_type="embed_vectors",
        payload=payload_of("embed_vectors"),
        root_id="root",
        parent_id="parent",
        group="group",
        group_index=70_000,
        headers=headers,
    )
    publish(worker.url, ENCODER.encode(task))
    note = worker.done(task.id)[task.id]
    assert (note["root_id"], note["parent_id"], note["group"], note["group_index"]) == (
        "root",
        "parent",
        "group",
        70_000,
    )
    assert note["headers"] == headers


def test_a_default_is_filled_in_before_the_worker_sees_the_task(worker: Worker) -> None:
    task = Task(task_type="summarize_llm", payload={"share_id": "s", "content": "c"})
    publish(worker.url, ENCODER.encode(task))
    assert worker.done(task.id)[task.id]["kwargs"] == {"share_id": "s", "content": "c", "options": {}}


def test_a_body_of_many_frames_arrives_whole(worker: Worker) -> None:
    content = "".join(f"{number} ünïcödé " for number in range(60_000))
    task = Task(task_type="summarize_llm", payload=payload_of("summarize_llm", content))
    publish(worker.url, ENCODER.encode(task))
    assert worker.done(task.id)[task.id]["kwargs"] == task.payload


def test_five_hundred_tasks_are_each_run_once(worker: Worker) -> None:
    tasks = [
        Task(task_type=kind, backend=backend, payload=payload_of(kind, f"text {number}"))
        for number in range(125)
        for kind, backend in (
            ("summarize_llm", "local"),
            ("embed_vectors", None),
            ("transcribe_whisper", None),
            ("embed_vectors_batch", None),
        )
    ]
    publish(worker.url, *map(ENCODER.encode, tasks))
    found = worker.done(*(task.id for task in tasks))
    assert {task_id: note["kwargs"] for task_id, note in found.items()} == {task.id: task.payload for task in tasks}


def test_a_worker_refuses_a_task_that_has_expired(worker: Worker) -> None:
    past = datetime.now(UTC) - timedelta(hours=1)
    expired, next_one = (Task(task_type="summarize_llm", payload=payload_of("summarize_llm")) for _ in range(2))
    # An attempt of yesterday still has time left by its `expiration`, so the broker hands it out; the worker must
    # judge by the `expires` header.
    envelope = ENCODER.encode(expired.model_copy(update={"expires": past}))
    publish(worker.url, envelope, now=past.timestamp() - 86_400)
    publish(worker.url, ENCODER.encode(next_one))
    worker.done(next_one.id)
    assert {"what": "revoked", "id": expired.id, "expired": True} in worker.noted("revoked")
    assert expired.id not in {note["id"] for note in worker.noted("done")}


@pytest.mark.parametrize("years", [1, 100, 7000])
def test_an_expiry_far_off_neither_closes_the_channel_nor_drops_the_task(worker: Worker, years: int) -> None:
    expires = datetime.now(UTC) + timedelta(days=365 * years)
    task = Task(task_type="summarize_llm", payload=payload_of("summarize_llm"), expires=expires)
    publish(worker.url, ENCODER.encode(task))
    worker.done(task.id)


def test_a_worker_that_logs_arguments_logs_their_names_and_no_content(worker: Worker) -> None:
    task = Task(task_type="summarize_llm", payload=payload_of("summarize_llm", "patient-4711"))
    publish(worker.url, ENCODER.encode(task))
    worker.wait_for_log(f"finished llm_service.tasks.summarize_content[{task.id}]")
    lines = [line for line in worker.log.splitlines() if task.id in line]
    assert len(lines) == 2
    for line in lines:
        assert line.endswith("args=() kwargs={'share_id': ..., 'content': ..., 'options': ...}")


def test_nothing_is_left_in_a_queue_or_held_by_the_worker(worker: Worker, rabbit: PrivateRabbit) -> None:
    task = Task(task_type="summarize_llm", payload=payload_of("summarize_llm"))
    publish(worker.url, ENCODER.encode(task))
    worker.done(task.id)
    columns = ("name", "messages", "type", "--no-table-headers")
    expected = sorted([name, "0", "quorum"] for name in TYPES.queues)
    # A quorum queue publishes its counts every few seconds, and none at first.
    end = time.monotonic() + WORK_TIMEOUT
    rows: list[list[str]] = []
    while rows != expected and time.monotonic() < end:
        listed = rabbit.ctl("list_queues", "-p", worker.url.rsplit("/", 1)[1], *columns)
        rows = sorted(line.split("\t") for line in listed.splitlines() if line.startswith("ml."))
    assert rows == expected


def settings_for(worker: Worker, folder: Path) -> Settings:
    return Settings.load(rabbitmq_url=worker.url, ml_data_dir=folder, ml_log_level="error")


async def test_what_the_library_publishes_is_run_with_its_keyword_arguments(worker: Worker, tmp_path: Path) -> None:
    items = [{"share_id": "s-4", "content": "four"}, {"share_id": "s-5", "content": "five"}]
    async with Producer(settings_for(worker, tmp_path)) as producer:
        assert await producer.connected(10)
        receipts = [
            await producer.publish_summarization_task("s-1", "one", options={"max_chars": 80}, backend="local"),
            await producer.publish_transcription_task("s-2", "https://media.example/talk.mp3", root_id="r", group="g"),
            await producer.publish_embedding_task("s-3", "three", id="chosen-id-of-" + worker.version),
            await producer.publish_batch_embedding_task(items),
        ]
    assert [receipt.state for receipt in receipts] == [TaskState.CONFIRMED] * 4
    assert receipts[2].task_id == "chosen-id-of-" + worker.version
    notes = await asyncio.to_thread(worker.done, *(receipt.task_id for receipt in receipts))
    assert [notes[receipt.task_id]["kwargs"] for receipt in receipts] == [
        {"share_id": "s-1", "content": "one", "options": {"max_chars": 80}},
        {"share_id": "s-2", "content": "https://media.example/talk.mp3", "options": {}},
        {"share_id": "s-3", "content": "three", "options": {}},
        {"items": items, "options": {}},
    ]
    assert [notes[receipt.task_id]["queue"] for receipt in receipts] == [
        "ml.summarize_local",
        "ml.transcribe",
        "ml.embed",
        "ml.embed",
    ]
    assert notes[receipts[1].task_id]["root_id"] == "r"
    assert notes[receipts[1].task_id]["group"] == "g"


async def test_a_stream_that_the_library_publishes_is_run_whole(worker: Worker, tmp_path: Path) -> None:
    tasks = [Task(task_type=kind, payload=payload_of(kind, str(n))) for n in range(150) for kind in TYPES.names]
    async with Producer(settings_for(worker, tmp_path)) as producer:
        assert await producer.connected(10)
        results = [result async for result in producer.publish_many(tasks)]
    assert all(isinstance(result, Receipt) for result in results)
    notes = await asyncio.to_thread(worker.done, *(task.id for task in tasks))
    assert {task_id: note["kwargs"] for task_id, note in notes.items()} == {task.id: task.payload for task in tasks}


async def test_a_task_with_an_eta_waits_in_the_spool_and_not_in_the_worker(worker: Worker, tmp_path: Path) -> None:
    eta = datetime.now(UTC) + timedelta(seconds=1.5)
    async with Producer(settings_for(worker, tmp_path)) as producer:
        assert await producer.connected(10)
        receipt = await producer.publish_embedding_task("s", "later", eta=eta)
        assert receipt.state is TaskState.SPOOLED
        note = (await asyncio.to_thread(worker.done, receipt.task_id))[receipt.task_id]
    assert note["at"] >= eta.timestamp()
    assert note["kwargs"]["content"] == "later"


def test_what_the_command_line_publishes_is_run(worker: Worker, tmp_path: Path) -> None:
    tasks = [Task(task_type=kind, payload=payload_of(kind, str(n))) for n in range(10) for kind in TYPES.names]
    lines = "".join(f"{task.model_dump_json()}\n" for task in tasks)
    done = subprocess.run(
        [Path(sys.executable).with_name("mlproducer"), "publish", "-", "--json"],
        input=lines.encode(),
        env={**os.environ, "RABBITMQ_URL": worker.url, "ML_DATA_DIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    notes = worker.done(*(task.id for task in tasks))
    assert {task_id: note["kwargs"] for task_id, note in notes.items()} == {task.id: task.payload for task in tasks}
