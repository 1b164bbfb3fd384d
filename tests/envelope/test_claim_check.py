"""The claim check's pure half: what is stored, what travels in its place."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from mlproducer.core.digest import content_digest
from mlproducer.envelope.claim_check import SHOWN_TOTAL, SHOWN_VALUE, check_in, needs_claim_check
from mlproducer.envelope.encode import Encoder, describe
from mlproducer.envelope.reference import KEYWORD, is_key, key_of, read_reference, refer_to
from mlproducer.envelope.types import Route, TaskType, TaskTypes
from mlproducer.errors import InvalidTask
from mlproducer.task import Envelope, Task


class Anything(BaseModel):
    model_config = ConfigDict(extra="allow")


ANYTHING = TaskType("anything", {"api": Route("any.thing", "ml.any")}, Anything)
ENCODER = Encoder(TaskTypes.builtin().with_([ANYTHING]), "mlproducer@test", 64 * 1024 * 1024)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('abcö"\\', max_size=8), inner, max_size=4),
    max_leaves=12,
)


def encode(payload: dict[str, Any], **given: Any) -> Envelope:
    return ENCODER.encode(Task(task_type="anything", payload=payload, **given))


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), JSON, max_size=6))
def test_the_payload_is_the_keyword_arguments_and_nothing_else(payload: dict[str, Any]) -> None:
    if payload.keys() & {KEYWORD, "self"}:
        return
    try:
        envelope = encode(payload)
    except InvalidTask:
        return  # a pair of keys that kombu would take for a type
    checked = check_in(envelope)
    assert json.loads(bytes(checked.payload)) == json.loads(envelope.body)[1] == payload
    assert checked.reference.sha256 == sha256(checked.payload).hexdigest()
    assert checked.reference.bytes == len(checked.payload)


def test_the_substitute_has_the_same_ids_route_and_properties_and_a_small_body() -> None:
    content = "A long text. " * 100_000
    envelope = encode({"share_id": "7", "content": content}, priority=3, headers={"tenant": "x"}, group="g")
    substitute = check_in(envelope).envelope
    for name in ("task_id", "task_type", "routing_key", "properties", "expires_at", "eta"):
        assert getattr(substitute, name) == getattr(envelope, name)
    assert len(substitute.body) < 500
    args, kwargs, embed = json.loads(substitute.body)
    assert (args, embed) == ([], json.loads(envelope.body)[2])
    assert kwargs == {"share_id": "7", KEYWORD: check_in(envelope).reference.as_json()}
    assert describe(substitute)["kwargs"] == kwargs


def test_small_values_stay_visible_and_texts_objects_and_lists_do_not() -> None:
    payload = {"id": "x" * (SHOWN_VALUE - 2), "n": 7, "none": None, "text": "x" * (SHOWN_VALUE - 1), "o": {}, "l": []}
    kwargs = json.loads(check_in(encode(payload)).envelope.body)[1]
    assert kwargs.keys() == {"id", "n", "none", KEYWORD}


def test_many_small_values_do_not_make_a_large_message() -> None:
    payload = {f"name-{number:04}": "x" * 100 for number in range(1000)}
    body = check_in(encode(payload)).envelope.body
    assert len(body) < SHOWN_TOTAL * 2
    assert json.loads(body)[1].keys() - {KEYWORD} < payload.keys()


def test_equal_content_gives_equal_bodies_and_digests_under_any_task_id() -> None:
    one, two = (check_in(encode({"share_id": "7", "content": "x" * 9000})).envelope for _ in range(2))
    other = check_in(encode({"share_id": "7", "content": "y" + "x" * 8999})).envelope
    assert one.task_id != two.task_id
    assert one.body == two.body
    assert content_digest(one) == content_digest(two) != content_digest(other)


def test_a_payload_with_a_field_of_the_references_name_is_refused() -> None:
    with pytest.raises(InvalidTask, match="taken") as refused:
        check_in(encode({KEYWORD: {"key": "x"}, "content": "x" * 9000}))
    assert refused.value.field == f"payload.{KEYWORD}"


def test_a_body_of_another_layout_is_no_payload() -> None:
    with pytest.raises(ValueError, match="layout"):
        check_in(Envelope("t", "anything", "q", b"", b'[[1],{"a":1},{}]'))


def test_the_threshold_itself_still_travels_in_the_message() -> None:
    assert not needs_claim_check(1000, 1000)
    assert needs_claim_check(1001, 1000)


def test_a_key_is_in_two_levels_of_folders() -> None:
    digest = sha256(b"{}").hexdigest()
    assert key_of(digest) == f"{digest[:2]}/{digest[2:4]}/{digest}"
    assert is_key(key_of(digest))


@pytest.mark.parametrize(
    "key",
    [
        "../../etc/passwd",
        "ab/cd/ef",
        "/ab/cd/" + "abcd" * 16,
        "AB/CD/" + "ABCD" * 16,
        "",
        "ab/cc/" + "abcd" * 16,
        "ab/cd/" + "abcd" * 16 + "\n",
    ],
)
def test_anything_else_is_no_key(key: str) -> None:
    assert not is_key(key)


GOOD = refer_to(b"{}").as_json()


def test_a_reference_is_read_as_it_was_written() -> None:
    assert read_reference(json.loads(json.dumps(GOOD))) == refer_to(b"{}")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("text", "no object"),
        ([], "no object"),
        ({}, "sha256"),
        ({**GOOD, "sha256": "../" * 21 + "x"}, "sha256"),
        ({**GOOD, "sha256": str(GOOD["sha256"]).upper()}, "sha256"),
        ({**GOOD, "key": "../../etc/passwd"}, "key"),
        ({**GOOD, "key": "s3://other/place"}, "key"),
        ({**GOOD, "key": key_of("a" * 64)}, "key"),
        ({**GOOD, "bytes": -1}, "bytes"),
        ({**GOOD, "bytes": True}, "bytes"),
        ({**GOOD, "bytes": "2"}, "bytes"),
        ({**GOOD, "encoding": "pickle"}, "encoding"),
    ],
)
def test_a_reference_that_nobody_of_ours_wrote_is_refused(value: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_reference(value)
