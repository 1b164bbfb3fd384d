"""Real Celery workers, the newest and 5.4, run what our encoder made: their own notes say what they were given."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest
from amqp import Connection  # type: ignore[import-untyped]  # py-amqp ships no types
from pamqp import frame
from pamqp.commands import Basic

from known_workers import on_the_wire
from making_queues import queue_states
from mlproducer.envelope.encode import Encoder, attempt_properties
from mlproducer.envelope.types import TaskTypes
from mlproducer.task import Envelope, Task
from mlproducer.testing.rabbitmq import PrivateRabbit

if TYPE_CHECKING:
    from tests.integration.conftest import Worker

WAIT = 30.0
TYPES = TaskTypes.builtin()
ENCODER = Encoder(TYPES, "mlproducer@test", 8 * 1024 * 1024)


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
            link.drain_events(timeout=WAIT)
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


def payload_of(task_type: str, content: str = "Ein Text, 文章, \U0001f600.") -> dict[str, Any]:
    options = {"n": 2**62, "half": 0.5, "none": None, "flag": True, "list": [1, {"deep": ["x"]}], "ключ": ""}
    one = {"share_id": "share-1", "content": content}
    if task_type == "embed_vectors_batch":
        return {"tasks": [one, {"share_id": "share-2", "content": "two"}], "options": options}
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
    assert (note["args"], note["kwargs"]) == ([], on_the_wire(task_type, task.payload, backend))
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
    assert worker.done(task.id)[task.id]["kwargs"] == {
        "share_id": "s",
        "content": {"text": "c"},
        "options": {"backend": "api"},
    }


def test_a_body_of_many_frames_arrives_whole(worker: Worker) -> None:
    content = "".join(f"{number} ünïcödé " for number in range(60_000))
    task = Task(task_type="summarize_llm", payload=payload_of("summarize_llm", content))
    publish(worker.url, ENCODER.encode(task))
    assert worker.done(task.id)[task.id]["kwargs"] == on_the_wire("summarize_llm", task.payload)


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
    assert {task_id: note["kwargs"] for task_id, note in found.items()} == {
        task.id: on_the_wire(task.task_type, task.payload, task.backend) for task in tasks
    }


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


def ours(rabbit: PrivateRabbit, url: str) -> list[tuple[str, int, str]]:
    return [found for found in queue_states(rabbit, url) if found[0].startswith("ml.")]


def test_nothing_is_left_in_a_queue_or_held_by_the_worker(worker: Worker, rabbit: PrivateRabbit) -> None:
    task = Task(task_type="summarize_llm", payload=payload_of("summarize_llm"))
    publish(worker.url, ENCODER.encode(task))
    worker.done(task.id)
    expected = [(name, 0, "quorum") for name in sorted(TYPES.queues)]
    # A quorum queue publishes its counts every few seconds, and none at first.
    end = time.monotonic() + WAIT
    while (found := ours(rabbit, worker.url)) != expected and time.monotonic() < end:
        time.sleep(0.1)
    assert found == expected
