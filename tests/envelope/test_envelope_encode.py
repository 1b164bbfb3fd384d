"""What we encode is what pamqp, py-amqp, kombu and Celery decode."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from amqp.basic_message import Message as WireMessage  # type: ignore[import-untyped]  # py-amqp ships no types
from celery import Celery
from celery.app.amqp import AMQP
from celery.worker.request import Request
from hypothesis import given
from hypothesis import strategies as st
from kombu.message import Message
from pamqp.commands import Basic
from pamqp.header import ContentHeader
from pydantic import BaseModel

from known_workers import CONTENT, on_the_wire
from mlproducer.envelope.encode import MAX_EXPIRATION_MS, Encoder, attempt_properties, describe
from mlproducer.envelope.reserved import why_reserved
from mlproducer.envelope.types import Route, TaskType, TaskTypes
from mlproducer.task import Envelope, Task
from mlproducer.values.limits import MAX_DEPTH, MAX_INT, MIN_INT

ORIGIN = "mlproducer@höst"
TYPES = TaskTypes.builtin()
ENCODER = Encoder(TYPES, ORIGIN, 8 * 1024 * 1024)
NOW = 1_900_000_000.0


def _no_kombu_type(found: dict[str, Any]) -> bool:
    return found.keys() != {"__type__", "__value__"}


text = st.text(max_size=40)
identifiers = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=128)
scalars = (
    st.none() | st.booleans() | st.integers(MIN_INT, MAX_INT) | st.floats(allow_nan=False, allow_infinity=False) | text
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4).filter(_no_kombu_type),
    max_leaves=12,
)
objects = st.dictionaries(text, values, max_size=4).filter(_no_kombu_type)
free_options = objects.filter(lambda found: "backend" not in found)
zones = st.timezones() | st.just(timezone(timedelta(seconds=3661)))  # an offset that ISO 8601 cannot write
moments = st.builds(
    lambda seconds, zone: datetime.fromtimestamp(seconds, UTC).astimezone(zone), st.integers(0, 250_000_000_000), zones
)


@st.composite
def payloads(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    task_type = draw(st.sampled_from(TYPES.names))
    share = st.text(min_size=1, max_size=255)
    content = st.text(min_size=1, max_size=300)
    payload: dict[str, Any]
    if task_type == "embed_vectors_batch":
        one = st.fixed_dictionaries({"share_id": share, "content": content}, optional={"options": free_options})
        payload = {draw(st.sampled_from(["tasks", "items"])): draw(st.lists(one, min_size=1, max_size=4))}
    else:
        payload = {"share_id": draw(share), "content": draw(content)}
        if draw(st.booleans()):
            payload["content"] = {CONTENT[task_type][0]: payload["content"], "more": draw(values)}
    if draw(st.booleans()):
        payload["options"] = draw(free_options)
    return task_type, payload


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    task_type, payload = draw(payloads())
    maybe = st.none() | identifiers
    free_names = identifiers.filter(lambda name: why_reserved(name) is None)
    return Task(
        task_type=task_type,
        payload=payload,
        backend=draw(st.sampled_from([None, "api", "local"])),
        id=draw(identifiers),
        root_id=draw(maybe),
        parent_id=draw(maybe),
        group=draw(maybe),
        group_index=draw(st.none() | st.integers(0, 2**31 - 1)),
        priority=draw(st.integers(0, 9)),
        expires=draw(st.none() | moments),
        headers=draw(st.dictionaries(free_names, text, max_size=3)),
    )


def wire(envelope: Envelope, message_id: bytes = b"m-1", now: float = NOW) -> ContentHeader:
    """The content header frame's payload as pamqp reads it."""
    properties = attempt_properties(envelope, message_id, now)
    header = ContentHeader()
    header.unmarshal(Basic.frame_id.to_bytes(2) + b"\x00\x00" + len(envelope.body).to_bytes(8) + properties)
    return header


def kombu_message(envelope: Envelope) -> Any:
    """The message as kombu over py-amqp hands it to a worker."""
    received = WireMessage()
    properties = attempt_properties(envelope, b"m-1", NOW)
    received.inbound_header(Basic.frame_id.to_bytes(2) + b"\x00\x00" + len(envelope.body).to_bytes(8) + properties)
    received.inbound_body(envelope.body)
    kombu: Any = Message  # untyped, though kombu says that it has types
    return kombu(
        body=received.body,
        channel=None,
        delivery_tag=1,
        accept={"application/json"},
        content_type=received.properties["content_type"],
        content_encoding=received.properties["content_encoding"],
        headers=received.properties["application_headers"],
        properties=received.properties,
        delivery_info={"exchange": "ml.tasks", "routing_key": envelope.routing_key},
    )


def expected_kwargs(task: Task) -> dict[str, Any]:
    return on_the_wire(task.task_type, task.payload, task.backend)


@given(tasks())
def test_pamqp_decodes_the_properties_and_the_body_that_were_meant(task: Task) -> None:
    envelope = ENCODER.encode(task)
    found = wire(envelope).properties
    _, route = TYPES.resolve(task)

    assert (found.content_type, found.content_encoding, found.delivery_mode) == ("application/json", "utf-8", 2)
    assert (found.priority, found.correlation_id, found.message_id) == (task.priority, task.id, "m-1")
    assert found.timestamp == datetime.fromtimestamp(NOW, UTC)
    assert found.reply_to is None
    assert found.headers == {
        "lang": "py",
        "task": route.celery_task,
        "id": task.id,
        "shadow": None,
        "eta": None,
        "expires": None if task.expires is None else task.expires.astimezone(UTC).isoformat(),
        "group": task.group,
        "group_index": task.group_index,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task.root_id or task.id,
        "parent_id": task.parent_id,
        "argsrepr": "()",
        "kwargsrepr": "{" + ", ".join(f"{name!r}: ..." for name in TYPES[task.task_type].fields.model_fields) + "}",
        "origin": ORIGIN,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        **task.headers,
    }
    assert (envelope.task_id, envelope.task_type, envelope.routing_key) == (task.id, task.task_type, route.queue)
    args, kwargs, embed = json.loads(envelope.body)
    assert (args, kwargs) == ([], expected_kwargs(task))
    assert embed == {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


@given(tasks())
def test_celery_makes_the_request_of_it_that_the_caller_stated(task: Task) -> None:
    message = kombu_message(ENCODER.encode(task))
    name = message.headers["task"]

    request = Request(message, app=APP, task=APP.tasks[name])

    args, kwargs, _ = message.decode()
    assert (request.id, request.name, args, kwargs) == (task.id, name, [], expected_kwargs(task))
    assert (request.root_id, request.parent_id) == (task.root_id or task.id, task.parent_id)
    assert (request.group, request.group_index) == (task.group, task.group_index)
    assert (request.correlation_id, request.expires, request.eta) == (task.id, task.expires, None)
    assert request.time_limits == [None, None]


@given(tasks())
def test_the_headers_are_those_of_celerys_own_client_and_the_callers(task: Task) -> None:
    own = AMQP(APP).as_task_v2(task.id, "t", kwargs={}).headers
    # Newer workers let it override what the task itself says, and only Celery's client knows what that is.
    del own["ignore_result"]
    assert set(wire(ENCODER.encode(task)).properties.headers or {}) == {*own, *task.headers}


@given(payloads())
def test_the_reprs_for_logs_and_events_hold_names_and_no_content(typed: tuple[str, dict[str, Any]]) -> None:
    task_type, payload = typed
    secret = "Ärzte-Befund 4711"
    if "content" in payload:
        payload["content"] = secret
    else:
        payload["tasks" if "tasks" in payload else "items"][0]["content"] = secret
    headers = wire(ENCODER.encode(Task(task_type=task_type, payload=payload))).properties.headers or {}
    # Present and not empty: without them the worker writes its own repr of the arguments into log and events.
    assert headers["argsrepr"]
    assert headers["kwargsrepr"]
    assert secret not in repr(headers)


def _echo(**kwargs: object) -> object:
    return kwargs


def _echo_app() -> Celery:
    app = Celery("decoding", set_as_current=False)
    for each in TYPES:
        for route in each.routes.values():
            app.task(shared=False, name=route.celery_task)(_echo)
    app.finalize()
    return app


APP = _echo_app()


def task_of(**changes: Any) -> Task:
    payload = {"share_id": "s-1", "content": "Some text."}
    return Task(**{"task_type": "summarize_llm", "payload": payload, **changes})


def test_an_eta_is_kept_for_the_spool_and_not_sent_to_the_worker() -> None:
    eta = datetime(2030, 1, 31, 12, tzinfo=timezone(timedelta(hours=2)))
    envelope = ENCODER.encode(task_of(eta=eta))
    assert envelope.eta == eta.timestamp()
    assert (wire(envelope).properties.headers or {})["eta"] is None


def test_the_expiration_of_an_attempt_is_the_time_that_is_left() -> None:
    envelope = ENCODER.encode(task_of(expires=datetime.fromtimestamp(NOW + 90, UTC)))
    assert envelope.expires_at == NOW + 90
    assert wire(envelope, now=NOW).properties.expiration == "90000"
    assert wire(envelope, now=NOW + 89.9995).properties.expiration == "0"
    assert wire(envelope, now=NOW + 1000).properties.expiration == "0"


def test_an_expiry_beyond_what_rabbitmq_counts_is_left_to_the_worker() -> None:
    limit = MAX_EXPIRATION_MS / 1000
    envelope = ENCODER.encode(task_of(expires=datetime.fromtimestamp(NOW + 10 * limit, UTC)))
    far, near = wire(envelope, now=NOW), wire(envelope, now=NOW + 9 * limit + 1)
    assert far.properties.expiration is None
    assert far.properties.message_id == "m-1"
    assert (far.properties.headers or {})["expires"] is not None
    assert near.properties.expiration is not None
    assert int(near.properties.expiration) <= MAX_EXPIRATION_MS


def test_a_task_without_expiry_has_no_expiration() -> None:
    assert wire(ENCODER.encode(task_of())).properties.expiration is None


def test_two_encodings_of_a_task_are_equal_so_that_a_repeat_can_be_recognised() -> None:
    task = task_of()
    assert ENCODER.encode(task) == ENCODER.encode(task)


@pytest.mark.parametrize(
    ("task_type", "backend", "celery_task", "queue"),
    [
        ("summarize_llm", "api", "llm_service.tasks.summarize_content", "ml.summarize"),
        ("summarize_llm", "local", "llm_service.tasks.summarize_content_local", "ml.summarize_local"),
        ("transcribe_whisper", "api", "whisper.tasks.transcribe_api", "ml.transcribe"),
        ("transcribe_whisper", "local", "whisper.tasks.transcribe_local", "ml.transcribe_local"),
        ("embed_vectors", "api", "vector_service.tasks.generate_embeddings", "ml.embed"),
        ("embed_vectors_batch", "api", "vector_service.tasks.generate_embeddings_batch", "ml.embed"),
        ("summarize_video_combined", "api", "summarize_video_combined", "ml.summarize"),
        ("summarize_video_combined", "local", "summarize_video_combined", "ml.summarize"),
    ],
)
def test_each_backend_leads_to_its_celery_task_and_queue(
    task_type: str, backend: str, celery_task: str, queue: str
) -> None:
    payload: dict[str, Any] = {"share_id": "s", "content": "c"}
    task = Task(task_type=task_type, backend=backend, payload={"items": [payload]} if "batch" in task_type else payload)
    envelope = ENCODER.encode(task)
    assert (describe(envelope)["task"], envelope.routing_key) == (celery_task, queue)


def test_a_task_without_a_backend_takes_the_preferred_one() -> None:
    encoder = Encoder(TaskTypes.builtin(preferred_llm="local"), ORIGIN, 8192)
    assert encoder.encode(task_of()).routing_key == "ml.summarize_local"
    assert encoder.encode(task_of(backend="api")).routing_key == "ml.summarize"


def test_the_deepest_payload_that_is_allowed_can_be_decoded_by_celery() -> None:
    nested: Any = "leaf"
    for _ in range(MAX_DEPTH - 2):  # the payload and options are the first two levels
        nested = [nested]
    task = task_of(payload={"share_id": "s", "content": "c", "options": {"deep": nested}})
    assert kombu_message(ENCODER.encode(task)).decode()[1] == expected_kwargs(task)


def test_a_field_is_sent_under_the_name_and_in_the_form_that_its_model_writes() -> None:
    class Visit(BaseModel):
        at: datetime
        note: str = "none"

    types = TaskTypes([TaskType("visit", {"api": Route("clinic.visit", "ml.visit")}, Visit)])
    task = Task(task_type="visit", payload={"at": "2030-01-31T12:00:00Z"})
    assert describe(Encoder(types, ORIGIN, 8192).encode(task))["kwargs"] == {
        "at": "2030-01-31T12:00:00Z",
        "note": "none",
    }


def test_describe_shows_a_person_what_the_worker_would_see() -> None:
    envelope = ENCODER.encode(task_of(id="t-1", priority=3, headers={"traceparent": "00-ab-cd-01"}))
    shown = describe(envelope)
    assert shown["task"] == "llm_service.tasks.summarize_content"
    assert (shown["task_id"], shown["task_type"], shown["queue"]) == ("t-1", "summarize_llm", "ml.summarize")
    assert shown["kwargs"] == {"share_id": "s-1", "content": {"text": "Some text."}, "options": {"backend": "api"}}
    assert shown["headers"]["traceparent"] == "00-ab-cd-01"
    assert (shown["priority"], shown["args"], shown["size"]) == (3, [], envelope.size)
    json.dumps(shown)


@pytest.mark.parametrize("given", ["api", "local"])
def test_the_options_of_a_built_in_type_may_choose_the_backend(given: str) -> None:
    task = task_of(payload={"share_id": "s", "content": "c", "options": {"backend": given}})
    _, route = TYPES.resolve(task)
    envelope = ENCODER.encode(task)
    assert envelope.routing_key == route.queue == {"api": "ml.summarize", "local": "ml.summarize_local"}[given]
    assert json.loads(envelope.body)[1]["options"] == {"backend": given}
