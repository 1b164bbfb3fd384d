"""Which Python values a payload takes, what a worker gets for them, and how the rest is refused."""

from __future__ import annotations

import contextlib
import json
import math
import zoneinfo
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from types import MappingProxyType
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils import json as kombu_json
from pydantic import BaseModel, JsonValue, SecretStr

from mlproducer.core.digest import content_digest
from mlproducer.envelope.encode import Encoder
from mlproducer.envelope.types import Route, TaskType, TaskTypes
from mlproducer.errors import MAX_FAULTS, InvalidTask
from mlproducer.task import Task
from mlproducer.values.kombu import decoded

ID = UUID("12345678-1234-5678-1234-567812345678")
MOMENT = datetime(2030, 1, 31, 12, 30, 15, 250_000, tzinfo=UTC)
NAIVE = datetime(2030, 1, 31, 12)  # noqa: DTZ001  # a payload may hold one: it is content
POINT = namedtuple("POINT", "x y")  # noqa: PYI024  # the plain kind, too


class Colour(Enum):
    RED = "red"
    ID = ID
    PAIR = (1, 2)


class Number(IntEnum):
    ONE = 1


class Word(StrEnum):
    YES = "yes"


@dataclass
class Box:
    size: int
    made: datetime = MOMENT
    inside: list[Any] = field(default_factory=list)


class Label(BaseModel):
    name: str
    at: datetime = MOMENT


class Open(BaseModel):
    model_config = {"extra": "allow"}


class Typed(BaseModel):
    """A task type's fields that know their types."""

    at: datetime | None = None
    who: UUID | None = None
    cost: Decimal | None = None
    raw: bytes | None = None
    tags: set[str | int] = set()
    more: dict[str, JsonValue] = {}
    anything: Any = None


loads: Any = kombu_json.loads  # kombu is half typed
ENCODER = Encoder(
    TaskTypes([TaskType(each.__name__.lower(), {"api": Route("t", "q")}, each) for each in (Open, Typed)]), "o", 2**20
)


def arrives(payload: Any, kind: str = "open") -> Any:
    """What a Celery worker makes of the payload, by kombu's own decoder."""
    return loads(ENCODER.encode(Task(task_type=kind, payload=payload, id="i")).body)[1]


@pytest.mark.parametrize(
    ("value", "there"),
    [
        (ID, ID),
        (MOMENT, MOMENT),
        (MOMENT.astimezone(timezone(timedelta(hours=-3, minutes=-30))), MOMENT),
        (MOMENT.astimezone(zoneinfo.ZoneInfo("Europe/Berlin")), MOMENT),
        (NAIVE, NAIVE),
        (date(2030, 1, 31), date(2030, 1, 31)),
        (time(1, 2, 3, tzinfo=UTC), time(1, 2, 3, tzinfo=UTC)),
        (Decimal("1.10"), Decimal("1.10")),
        (b"text", b"text"),
        (b"\xff\x00", b"\xff\x00"),
        (Colour.RED, "red"),
        (Colour.ID, ID),
        (Colour.PAIR, [1, 2]),
        (Number.ONE, 1),
        (Word.YES, "yes"),
        ((1, (ID,)), [1, [ID]]),
        (POINT(1, ID), [1, ID]),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({ID}), [ID]),
        (Box(1, inside=[Box(2)]), {"size": 1, "made": MOMENT, "inside": [{"size": 2, "made": MOMENT, "inside": []}]}),
        (Label(name="n"), {"name": "n", "at": MOMENT}),
        (OrderedDict(a=ID), {"a": ID}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (np.float32(1.5), 1.5),
        (np.float64(0.1), 0.1),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.str_("s"), "s"),
        (np.bytes_(b"s"), b"s"),
        (np.datetime64("2030-01-31"), date(2030, 1, 31)),
        ({1: "a", Word.YES: "b", ID: "c", Colour.RED: "d"}, {"1": "a", "yes": "b", str(ID): "c", "red": "d"}),
    ],
    ids=repr,
)
def test_a_value_arrives_as_it_is_or_in_its_obvious_form(value: Any, there: Any) -> None:
    found = arrives({"top": value, "deep": [{"in": value}]})
    assert found == {"top": there, "deep": [{"in": there}]}
    assert type(found["top"]) is type(there)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        math.nan,
        math.inf,
        Decimal("NaN"),
        Decimal("-Infinity"),
        np.float32(math.nan),
        np.float64(math.inf),
        np.array([1, 2]),
        np.datetime64(1, "ns"),
        np.complex64(1),
        np.longdouble(1),
        2**63,
        np.uint64(2**64 - 1),
        "half \ud83d",
        {"half \ud83d": 1},
        {"__type__": "uuid", "__value__": {"hex": ID.hex}},
        OrderedDict(__value__=1, __type__="x"),
        1j,
        timedelta(1),
        range(3),
        iter([1]),
        SecretStr("s"),
        Box,
        len,
        {True: 1},
        {None: 1},
        {1.5: 1},
        {(1,): 1},
        {b"\xff": 1},
        {1: "a", "1": "b"},
        {10**5000: 1},
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_else_is_refused_by_field_when_the_task_is_made(value: Any) -> None:
    with pytest.raises(InvalidTask) as caught:
        Task(task_type="open", payload={"options": {"when": [1, 2, value]}})
    assert caught.value.field is not None
    assert caught.value.field.startswith("payload.options.when.2")


def test_what_holds_itself_is_refused() -> None:
    around: list[Any] = [ID]
    around.append({"in": around})
    with pytest.raises(InvalidTask, match=r"^payload\.a\.1\.in: refers to itself$"):
        Task(task_type="open", payload={"a": around})
    same = [1]
    assert arrives({"a": [same, same, ID]}) == {"a": [[1], [1], ID]}


def test_a_mapping_that_cannot_be_read_is_refused() -> None:
    class Broken(OrderedDict[str, Any]):
        def items(self) -> Any:
            raise OSError("secret words")

    with pytest.raises(InvalidTask, match=r"^payload\.a: cannot be read: Broken raised OSError$"):
        Task(task_type="open", payload={"a": Broken(), "b": ID})


def test_every_fault_is_named_in_one_error_and_of_a_million_the_first() -> None:
    with pytest.raises(InvalidTask) as caught:
        Task(
            task_type="",
            payload={"a": object(), "b": [math.nan, 1, 2**70]},
            eta=30,
            priority=99,
            more=1,  # type: ignore[call-arg]  # what is tested
        )
    fields = [fault.field for fault in caught.value.faults]
    assert sorted(fields) == ["eta", "more", "payload.a", "payload.b.0", "payload.b.2", "priority", "task_type"]
    assert all(f"{field}: " in str(caught.value) for field in fields)
    with pytest.raises(InvalidTask) as caught:
        Task(task_type="open", payload={"vector": [math.nan] * 100_000})
    assert len(caught.value.faults) == MAX_FAULTS + 1
    assert str(caught.value).endswith("; and there are more faults")


def test_equal_sets_are_equal_content_whatever_order_they_come_in() -> None:
    one, other = set((0, 8)), set((8, 0))  # noqa: C405  # the order of making is what is meant
    assert list(one) != list(other)
    for kind, name in (("open", "x"), ("typed", "tags"), ("typed", "anything")):
        digests = {content_digest(ENCODER.encode(Task(task_type=kind, payload={name: each}))) for each in (one, other)}
        assert len(digests) == 1
    # Also where a task type's own model makes a set of a list.
    assert arrives({"tags": [8, 0, "a"]}, "typed")["tags"] == arrives({"tags": ["a", 0, 8]}, "typed")["tags"]


def test_what_is_given_as_a_value_arrives_as_one_and_text_arrives_as_text_through_a_typed_model() -> None:
    values = {"at": MOMENT, "who": ID, "cost": Decimal("1.10"), "raw": b"\xff"}
    given = {**values, "more": {"deep": [MOMENT, {"dict": ID}]}, "anything": b"x", "tags": {"b", "a"}}
    assert arrives(given, "typed") == {**given, "tags": ["a", "b"]}
    text = {"at": MOMENT.isoformat(), "who": str(ID)}
    found = arrives({**text, "cost": Decimal(1)}, "typed")
    assert (found["at"], found["who"], found["cost"]) == ("2030-01-31T12:30:15.250000Z", str(ID), Decimal(1))


def test_a_field_of_another_type_refuses_a_value_by_name() -> None:
    task = Task(task_type="typed", payload={"at": ID, "who": MOMENT, "more": {"fine": ID}})
    with pytest.raises(InvalidTask) as caught:
        ENCODER.encode(task)
    assert [fault.field for fault in caught.value.faults] == ["payload.at", "payload.who"]


def test_json_from_outside_is_written_as_it_came() -> None:
    text = '{"task_type": "open", "payload": {"a": [1, 1.5, null, true, "2030-01-31T00:00:00Z", {"b": "\\u00e9"}]}}'
    assert json.loads(ENCODER.encode(Task.parse(text)).body)[1] == json.loads(text)["payload"]


def test_what_a_task_holds_is_a_copy() -> None:
    inner = [ID, 1]
    payload = {"a": inner}
    task = Task(task_type="open", payload=payload)
    inner.append(2)
    payload["b"] = []
    assert task.payload == {"a": [ID, 1]}


_TYPED = (
    st.uuids()
    | st.datetimes()
    | st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))]))
    | st.dates()
    | st.times()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.binary(max_size=20)
)
_LEAVES = _TYPED | st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8)
_TREES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)


@given(st.dictionaries(st.text(min_size=1, max_size=5).map("k{}".format), _TREES, max_size=4))
def test_any_tree_of_values_is_what_kombu_and_our_own_reader_decode(payload: dict[str, Any]) -> None:
    task = Task(task_type="open", payload=payload)
    body = ENCODER.encode(task).body
    for found in (loads(body)[1], json.loads(body, object_hook=decoded)[1]):
        assert found == payload
        assert _types(found) == _types(payload)


def _types(value: Any) -> Any:
    match value:
        case dict():
            return {key: _types(item) for key, item in value.items()}
        case list():
            return [_types(item) for item in value]
        case _:
            return type(value)


@given(st.recursive(st.from_type(type).flatmap(st.from_type) | _LEAVES, lambda inner: st.lists(inner, max_size=3)))
def test_whatever_object_is_given_it_is_taken_or_refused_in_our_words(value: Any) -> None:
    with contextlib.suppress(InvalidTask):
        loads(ENCODER.encode(Task(task_type="open", payload={"value": value})).body)
