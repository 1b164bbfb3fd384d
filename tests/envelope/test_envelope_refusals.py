"""Every bad input is refused before acceptance, with the field named and no content repeated."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from typing import Any

import pytest
from celery import Celery
from celery.app.amqp import AMQP
from celery.app.task import Context
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, RootModel, model_serializer

from mlproducer.envelope.encode import MAX_PROPERTIES, Encoder, parse_task
from mlproducer.envelope.reserved import why_reserved
from mlproducer.envelope.types import Route, TaskType, TaskTypes
from mlproducer.errors import InvalidTask, TaskTooLarge
from mlproducer.task import Task
from mlproducer.values.limits import MAX_DEPTH, MAX_INT, MIN_INT, check_json, dotted

TYPES = TaskTypes.builtin()
ENCODER = Encoder(TYPES, "mlproducer@test", 64 * 1024)
GOOD: dict[str, Any] = {"share_id": "s-1", "content": "Some text."}
HALF = "cut \ud83d"
SECRET = "patient-4711"
_APP = Celery("names", set_as_current=False)


def refused(task_type: str = "summarize_llm", payload: dict[str, Any] | None = None, **others: Any) -> InvalidTask:
    with pytest.raises(InvalidTask) as caught:
        ENCODER.encode(Task(task_type=task_type, payload=GOOD if payload is None else payload, **others))
    return caught.value


def unparsable(data: object) -> InvalidTask:
    with pytest.raises(InvalidTask) as caught:
        parse_task(data)
    return caught.value


def nested(levels: int) -> Any:
    value: Any = "leaf"
    for level in range(levels):
        value = [value] if level % 2 else {"in": value}
    return value


def test_an_unknown_task_type_is_refused_and_the_known_ones_are_listed() -> None:
    error = refused("sumarize_llm")
    assert error.field == "task_type"
    assert "summarize_llm" in str(error)


def test_an_unknown_backend_is_refused_and_the_known_ones_are_listed() -> None:
    error = refused(backend="gpu")
    assert error.field == "backend"
    assert "api, local" in str(error)


@pytest.mark.parametrize(
    ("task_type", "payload", "field"),
    [
        ("summarize_llm", {"content": "c"}, "payload.share_id"),
        ("summarize_llm", {"share_id": "s"}, "payload.content"),
        ("summarize_llm", {**GOOD, "content": ""}, "payload.content"),
        ("summarize_llm", {**GOOD, "share_id": "s" * 256}, "payload.share_id"),
        ("summarize_llm", {**GOOD, "share_id": 7}, "payload.share_id"),
        ("summarize_llm", {**GOOD, "content": None}, "payload.content"),
        ("summarize_llm", {**GOOD, "options": []}, "payload.options"),
        ("summarize_llm", {**GOOD, "option": {}}, "payload.option"),
        ("transcribe_whisper", {**GOOD, "content": "u" * 8193}, "payload.content"),
        ("embed_vectors_batch", {"items": []}, "payload.items"),
        ("embed_vectors_batch", {"items": [GOOD] * 1001}, "payload.items"),
        ("embed_vectors_batch", {"items": [GOOD, {"share_id": "s"}]}, "payload.items.1.content"),
        ("embed_vectors_batch", {"items": [{**GOOD, "options": []}]}, "payload.items.0.options"),
        ("embed_vectors_batch", {"tasks": [GOOD, {**GOOD, "content": ""}]}, "payload.tasks.1.content"),
        ("embed_vectors_batch", {"tasks": [GOOD, {**GOOD, "content": {"text": ""}}]}, "payload.tasks.1.content.text"),
        ("embed_vectors_batch", {"tasks": [GOOD, 7]}, "payload.tasks.1"),
        ("embed_vectors_batch", {"tasks": GOOD}, "payload.tasks"),
        ("embed_vectors_batch", {}, "payload.tasks"),
        ("embed_vectors_batch", {"tasks": [GOOD], "items": [GOOD]}, "payload.items"),
        ("embed_vectors_batch", {"tasks": [GOOD], "options": []}, "payload.options"),
        ("summarize_llm", {**GOOD, "content": {}}, "payload.content.text"),
        ("summarize_llm", {**GOOD, "content": {"text": "t", "title": 7}}, "payload.content.title"),
        ("summarize_llm", {**GOOD, "content": ["t"]}, "payload.content"),
        ("transcribe_whisper", {**GOOD, "content": {"mediaURL": "u"}}, "payload.content.mediaUrl"),
        ("embed_vectors", {**GOOD, "content": {"text": "t", "metadata": []}}, "payload.content.metadata"),
        ("summarize_video_combined", {"content": "t"}, "payload.share_id"),
        ("summarize_video_combined", {**GOOD, "content": {}}, "payload.content.transcript"),
        (
            "summarize_video_combined",
            {**GOOD, "content": {"transcript": "", "hashtags": "#a"}},
            "payload.content.hashtags",
        ),
        ("summarize_video_combined", {**GOOD, "options": None}, "payload.options"),
        ("summarize_video_combined", {**GOOD, "more": 1}, "payload.more"),
        ("summarize_llm", {**GOOD, "options": {"backend": "gpu"}}, "payload.options.backend"),
        ("summarize_llm", {**GOOD, "options": {"backend": ["api"]}}, "payload.options.backend"),
        (
            "embed_vectors_batch",
            {"tasks": [{**GOOD, "options": {"backend": "local"}}]},
            "payload.tasks.0.options.backend",
        ),
    ],
)
def test_a_missing_wrong_oversized_or_extra_field_is_named(task_type: str, payload: dict[str, Any], field: str) -> None:
    assert refused(task_type, payload).field == field


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, MAX_INT + 1, MIN_INT - 1, pytest.param(10**5000, id="5001 digits"), HALF]
)
def test_a_value_that_json_cannot_carry_to_every_reader_is_refused(value: object) -> None:
    assert refused(payload={**GOOD, "options": {"tone": [1, {"x": value}]}}).field == "payload.options.tone.1.x"


@pytest.mark.parametrize("value", [MAX_INT, MIN_INT, 0.1, 1e308, -0.0, "\U0001f600"])
def test_the_last_values_inside_the_limits_are_taken(value: object) -> None:
    envelope = ENCODER.encode(Task(task_type="summarize_llm", payload={**GOOD, "options": {"x": value}}))
    assert json.loads(envelope.body)[1]["options"] == {"backend": "api", "x": value}


def test_half_a_surrogate_pair_in_a_key_is_refused_and_not_replaced() -> None:
    error = refused(payload={**GOOD, "options": {HALF: 1}})
    assert error.field == "payload.options.cut \\ud83d"


def test_half_a_surrogate_pair_in_the_content_is_refused() -> None:
    assert refused(payload={**GOOD, "content": HALF}).field == "payload.content"


@pytest.mark.parametrize("path", [["options"], ["options", "a"], ["options", "a", 0], ["options", "a", 0, "b"]])
def test_an_object_that_kombu_would_decode_as_a_type_is_refused_at_any_depth(path: list[Any]) -> None:
    value: Any = {"__type__": "datetime", "__value__": "2030-01-31"}
    for key in reversed(path):
        value = [value] if isinstance(key, int) else {key: value}
    assert refused(payload={**GOOD, **value}).field == dotted(["payload", *path])


@pytest.mark.parametrize("value", [{"__type__": "x"}, {"__value__": 1}, {"__type__": "x", "__value__": 1, "more": 2}])
def test_an_object_that_only_resembles_one_of_kombus_is_taken(value: dict[str, Any]) -> None:
    ENCODER.encode(Task(task_type="summarize_llm", payload={**GOOD, "options": {"x": value}}))


def test_a_payload_that_itself_looks_like_one_of_kombus_is_refused() -> None:
    class Odd(BaseModel):
        model_config = {"extra": "allow"}

    encoder = Encoder(TaskTypes([TaskType("odd", {"api": Route("t", "q")}, Odd)]), "o", 8192)
    with pytest.raises(InvalidTask, match=r"^payload: "):
        encoder.encode(Task(task_type="odd", payload={"__type__": "uuid", "__value__": {"hex": "0"}}))


def test_nesting_one_level_too_deep_is_refused() -> None:
    inside = MAX_DEPTH - 2  # the payload and options are the first two
    ENCODER.encode(Task(task_type="summarize_llm", payload={**GOOD, "options": {"x": nested(inside)}}))
    error = refused(payload={**GOOD, "options": {"x": nested(inside + 1)}})
    assert "64 levels" in str(error)
    assert str(error).startswith("payload.options.x.")
    assert len(str(error)) < 200


@given(
    st.recursive(
        st.sampled_from(
            [math.nan, math.inf, MAX_INT + 1, MIN_INT - 1, HALF, {"__type__": 1, "__value__": 1}, b"", {1}]
        ),
        lambda inner: st.tuples(st.just("[]"), inner) | st.tuples(st.sampled_from(["a", "b.c", "é"]), inner),
        max_leaves=1,
    )
)
def test_a_fault_is_found_wherever_it_is_and_named_by_its_path(description: Any) -> None:
    keys: list[object] = []
    while isinstance(description, tuple):
        key, description = description
        keys.append(1 if key == "[]" else key)
    value = description
    for key in reversed(keys):
        value = ["fine", value] if key == 1 else {"fine": [{}, 1.5, None, True, "ok"], key: value}
    with pytest.raises(InvalidTask) as caught:
        check_json(value, "payload")
    assert caught.value.field == dotted(["payload", *keys])


def test_a_key_that_is_no_string_is_refused() -> None:
    with pytest.raises(InvalidTask, match=r"^payload\.7: a key must be a string"):
        check_json({7: 1}, "payload")


def test_keys_and_paths_are_cut_and_made_printable_in_errors() -> None:
    assert dotted(["payload", "k" * 500, "a\nb\x1b[31m"]) == "payload." + "k" * 40 + r"~.a\nb\x1b[31m"
    assert dotted(range(100)) == "0.1.2.3.4.5.6.7...."


def test_no_error_repeats_what_the_payload_holds() -> None:
    long = SECRET * 100
    for payload in (
        {**GOOD, "share_id": long},
        {**GOOD, "options": long},
        {**GOOD, "options": {"x": [SECRET, math.nan]}},
        {"share_id": SECRET},
    ):
        assert SECRET not in str(refused(payload=payload))
    for data in (
        {"task_type": "summarize_llm", "payload": SECRET},
        {"task_type": "summarize_llm", "payload": {}, "eta": SECRET},
        f'{{"task_type": "summarize_llm", "payload": {{"content": "{SECRET}',
    ):
        assert SECRET not in str(unparsable(data))


def test_a_message_over_the_limit_is_refused_and_its_largest_field_is_named() -> None:
    encoder = Encoder(TYPES, "o", 2048)
    with pytest.raises(TaskTooLarge) as caught:
        encoder.encode(Task(task_type="summarize_llm", payload={**GOOD, "options": {"notes": "n" * 2048}}))
    assert caught.value.field == "payload.options"
    assert "ML_MAX_MESSAGE_BYTES" in str(caught.value)


def test_the_limit_counts_bytes_and_the_last_byte_fits() -> None:
    task = Task(task_type="summarize_llm", payload={**GOOD, "content": "é" * 500})
    size = ENCODER.encode(task).size
    Encoder(TYPES, "mlproducer@test", size).encode(task)
    with pytest.raises(TaskTooLarge):
        Encoder(TYPES, "mlproducer@test", size - 1).encode(task)


def test_a_task_that_expires_before_its_eta_is_refused() -> None:
    eta = datetime(2030, 1, 31, tzinfo=UTC)
    assert refused(eta=eta, expires=eta).field == "expires"
    ENCODER.encode(Task(task_type="summarize_llm", payload=GOOD, eta=eta, expires=eta + timedelta(seconds=1)))


@pytest.mark.parametrize("field", ["eta", "expires"])
def test_a_time_that_utc_cannot_write_is_refused(field: str) -> None:
    moment = datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-10)))
    times: dict[str, Any] = {field: moment}
    assert refused(**times).field == field


def test_a_time_without_a_zone_is_refused_even_in_a_task_that_was_never_validated() -> None:
    naive = datetime(2030, 1, 31)  # noqa: DTZ001  # its lack of a zone is what is tested
    task = Task(task_type="summarize_llm", payload=GOOD).model_copy(update={"expires": naive})
    with pytest.raises(InvalidTask, match=r"^expires: needs a time zone"):
        ENCODER.encode(task)


def test_a_group_index_that_amqp_cannot_carry_is_refused() -> None:
    assert refused(group_index=2**31).field == "group_index"


def test_headers_that_do_not_fit_one_frame_are_refused() -> None:
    error = refused(headers={f"h{number}": "v" * 8192 for number in range(8)})
    assert error.field == "headers"
    assert str(MAX_PROPERTIES) in str(error)


def test_half_a_surrogate_pair_in_a_header_is_refused() -> None:
    task = Task(task_type="summarize_llm", payload=GOOD).model_copy(update={"headers": {"note": HALF}})
    with pytest.raises(InvalidTask, match=r"^headers\.note: half of a surrogate pair"):
        ENCODER.encode(task)


def test_every_header_name_that_celery_gives_a_meaning_is_reserved() -> None:
    protocol = AMQP(_APP).as_task_v2("id", "t").headers
    context = [name for name in vars(Context) if not name.startswith("__")]
    for name in ["compression", "groups", "__dict__", *protocol, *context]:
        assert why_reserved(name) is not None, name
        assert refused(headers={name: "x"}).field == f"headers.{name}"


@pytest.mark.parametrize("name", ["CC", "bcc", "x-death", "X-Delivery-Count", "x-opt-enqueued", "_mine"])
def test_header_names_that_rabbitmq_acts_on_are_reserved(name: str) -> None:
    assert refused(headers={name: "x"}).field == f"headers.{name}"


@pytest.mark.parametrize("name", ["traceparent", "tracestate", "baggage", "x-request-id", "tenant", "Accept"])
def test_other_header_names_are_free(name: str) -> None:
    ENCODER.encode(Task(task_type="summarize_llm", payload=GOOD, headers={name: "x"}))


def test_fields_that_do_not_write_an_object_are_refused_since_they_would_stop_the_worker() -> None:
    class Items(RootModel[list[int]]):
        pass

    class Text(BaseModel):
        @model_serializer
        def _text(self) -> str:
            return "text"

    for fields, payload in ((Text, {}), (Items, [1])):
        encoder = Encoder(TaskTypes([TaskType("odd", {"api": Route("t", "q")}, fields)]), "o", 8192)
        task = Task(task_type="odd", payload={}).model_copy(update={"payload": payload})
        with pytest.raises(InvalidTask, match=r"^payload: .* do not write an object"):
            encoder.encode(task)


def test_fields_that_cannot_be_written_as_json_are_refused() -> None:
    class Colour(Enum):
        RED = object()

    class Painted(BaseModel):
        colour: Colour = Colour.RED

    encoder = Encoder(TaskTypes([TaskType("odd", {"api": Route("t", "q")}, Painted)]), "o", 8192)
    with pytest.raises(InvalidTask, match=r"^payload: cannot be written as JSON"):
        encoder.encode(Task(task_type="odd", payload={}))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"task_type": "summarize_llm", "payload": {"content": "\xff"}}', "not valid JSON: .* line 1 column"),
        (b'{"task_type": "summarize_llm", "payload": {"content": "\\ud83d"}}', "not valid JSON: .* line 1 column"),
        (b'{"task_type": "summarize_llm", "payload": {', "not valid JSON: EOF .* line 1 column"),
        (b"", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"task_type": "x", "payload": {"n": ' + b"9" * 5000 + b"}}", "not valid JSON: number out of range"),
        (b'{"task_type": "x", "payload": {"n": ' + b"[" * 5000 + b"]" * 5000 + b"}}", "recursion limit"),
        (b"[]", "a task is a JSON object"),
        (b'"text"', "a task is a JSON object"),
        (None, "a task is a JSON object"),
        (7, "a task is a JSON object"),
    ],
)
def test_what_is_not_a_json_object_is_refused_with_its_place(data: object, words: str) -> None:
    error = unparsable(data)
    assert error.field is None
    assert re.search(words, str(error))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"task_type": None}, "task_type"),
        ({"task_type": ""}, "task_type"),
        ({"payload": []}, "payload"),
        ({"id": ""}, "id"),
        ({"id": "two words"}, "id"),
        ({"id": "i" * 129}, "id"),
        ({"id": "ümlaut"}, "id"),
        ({"eta": "2030-01-31T12:00:00"}, "eta"),
        ({"expires": "soon"}, "expires"),
        ({"priority": 10}, "priority"),
        ({"priority": -1}, "priority"),
        ({"group_index": -1}, "group_index"),
        ({"headers": {"a": "v" * 8193}}, "headers.a"),
        ({"headers": {"a": 1}}, "headers.a"),
        ({"kwargs": {}}, "kwargs"),
    ],
)
@pytest.mark.parametrize("form", ["json", "mapping"])
def test_a_wrong_field_of_a_task_is_named(change: dict[str, Any], field: str, form: str) -> None:
    data = {"task_type": "summarize_llm", "payload": GOOD, **change}
    assert unparsable(json.dumps(data).encode() if form == "json" else data).field == field


def test_a_missing_field_of_a_task_is_named() -> None:
    assert unparsable({"payload": {}}).field == "task_type"
    assert unparsable(b'{"task_type": "summarize_llm"}').field == "payload"


def test_a_value_that_is_no_json_is_named_by_the_keys_alone() -> None:
    data = {"task_type": "x", "payload": {"options": {"dict": {"list": [0, object()]}}}}
    assert unparsable(data).field == "payload.options.dict.list.1"


def test_a_payload_that_holds_itself_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["again"] = loop
    error = unparsable({"task_type": "x", "payload": loop})
    assert "refers to itself" in str(error)
    assert len(str(error)) < 200


def test_nan_in_a_json_text_is_refused() -> None:
    refusal = unparsable(
        '{"task_type": "summarize_llm", "payload": {"share_id": "s", "content": "c", "options": {"t": NaN}}}'
    )
    assert str(refusal).startswith("payload.options.t: NaN")


def test_a_payload_that_was_changed_after_it_was_checked_is_checked_again() -> None:
    task = Task(task_type="summarize_llm", payload={**GOOD, "options": {"x": 1}})
    task.payload["options"]["x"] = math.nan
    with pytest.raises(InvalidTask, match=r"^payload\.options\.x: NaN"):
        ENCODER.encode(task)


def test_a_good_task_is_parsed_from_every_form() -> None:
    task = Task(task_type="summarize_llm", payload=GOOD, id="t-1")
    for data in (task, task.model_dump(), task.model_dump_json(), task.model_dump_json().encode()):
        assert parse_task(data) == task
