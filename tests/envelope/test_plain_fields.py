"""Fields that write what they read are checked once and written at once; nobody can tell it from the message."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from enum import IntEnum, StrEnum
from math import inf, nan
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    RootModel,
    StrictFloat,
    StrictInt,
    StringConstraints,
    computed_field,
    field_serializer,
    model_serializer,
    model_validator,
)

from mlproducer.envelope import arguments
from mlproducer.envelope.encode import Encoder
from mlproducer.envelope.plain import writes_what_it_reads
from mlproducer.envelope.types import Route, TaskType, TaskTypes
from mlproducer.errors import InvalidTask
from mlproducer.task import Envelope, Task
from mlproducer.values.limits import MAX_DEPTH

BUILTIN = TaskTypes.builtin()


def encoders(fields: type[BaseModel]) -> tuple[Encoder, Encoder]:
    """The encoder, and one that proves nothing: it checks again what each model wrote, as for any model."""
    types = TaskTypes([TaskType("t", {"api": Route("t", "q")}, fields)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arguments, "writes_what_it_reads", lambda _fields: False)
        careful = Encoder(types, "o", 64 * 1024)
    return Encoder(types, "o", 64 * 1024), careful


def result(encoder: Encoder, payload: dict[str, Any], task_type: str = "t") -> Envelope | tuple[str | None, str]:
    # Not validated as a Task would be, so that the encoder's own checks are what is met.
    task = Task(task_type=task_type, payload={}, id="i").model_copy(update={"payload": payload})
    try:
        return encoder.encode(task)
    except InvalidTask as refusal:
        return refusal.field, str(refusal)


class Colour(StrEnum):
    RED = "red"


class Big(IntEnum):
    A = 10**30


class Inner(BaseModel):
    name: str
    tags: list[str] = []
    more: dict[str, JsonValue] = Field(default_factory=dict)


class Plain(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    text: Annotated[str, Field(min_length=1, pattern="a")] = "a"
    aliased: str = Field("", alias="öther")
    count: Annotated[StrictInt, Field(ge=0)] = 0
    share: StrictFloat | None = None
    finite: Annotated[float, Field(allow_inf_nan=False)] = 0.5
    flag: bool = False
    kind: Literal["x", 7, True] | None = "x"
    anything: Any = None
    value: JsonValue = None
    bare_list: list[Any] = []
    bare_object: dict[str, Any] = {}
    inner: Inner | None = None
    inners: list[Inner] = Field(default_factory=list)
    left_out: str = Field("", exclude=True)


class StrictPlain(BaseModel):
    model_config = ConfigDict(strict=True, serialize_by_alias=True, extra="forbid")

    count: int
    share: float = Field(serialization_alias="part")


PLAIN = (Plain, StrictPlain, Inner, *(each.fields for each in BUILTIN))


class LaxInt(BaseModel):
    v: int


class LaxFloat(BaseModel):
    v: float


class LaxIntInStrictNullable(BaseModel):
    v: Annotated[int | None, Field(strict=True)] = None
    w: list[int] = []


class LaxInsideStrict(BaseModel):
    model_config = ConfigDict(strict=True)

    v: LaxInt


class NanDefault(BaseModel):
    v: float = Field(nan, strict=True)


class MadeDefault(BaseModel):
    v: list[float] = Field(default_factory=lambda: [inf])


class HalfDefault(BaseModel):
    v: str = "\ud83d"


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")


class Kombu(BaseModel):
    kind: str = Field("x", alias="__type__", serialization_alias="__type__")
    value: str = Field("y", serialization_alias="__value__")
    model_config = ConfigDict(serialize_by_alias=True)


class KombuInside(BaseModel):
    v: Kombu


class Stripped(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True)

    v: dict[str, JsonValue]


class StrippedKeys(BaseModel):
    v: dict[Annotated[str, StringConstraints(strip_whitespace=True)], JsonValue]


class Lowered(BaseModel):
    v: Annotated[str, StringConstraints(to_lower=True)]


class OtherKeys(BaseModel):
    v: dict[int, JsonValue]


class Computed(BaseModel):
    v: str

    @computed_field  # type: ignore[prop-decorator]  # as pydantic documents it
    @property
    def twice(self) -> float:
        return inf


class Validated(BaseModel):
    v: Annotated[Any, AfterValidator(lambda _: nan)] = 1


class ValidatedWhole(BaseModel):
    v: Any = None

    @model_validator(mode="after")
    def _changed(self) -> ValidatedWhole:
        self.v = 10**30
        return self


class Serialised(BaseModel):
    v: Any = None

    @field_serializer("v")
    def _written(self, _v: object) -> float:
        return inf


class SerialisedPlainly(BaseModel):
    v: Annotated[Any, PlainSerializer(lambda _: {"__type__": 1, "__value__": 2})] = 1


class SerialisedWhole(BaseModel):
    v: Any = None

    @model_serializer
    def _written(self) -> dict[str, float]:
        return {"v": nan}


class PostInit(BaseModel):
    v: Any = None

    def model_post_init(self, _context: object) -> None:
        self.v = nan


class OwnInit(BaseModel):
    v: Any = None

    def __init__(self, **_given: object) -> None:
        super().__init__(v=nan)


class Root(RootModel[dict[str, JsonValue]]):
    pass


class Dated(BaseModel):
    v: datetime


class Exact(BaseModel):
    v: Decimal


class Coloured(BaseModel):
    v: Colour = Colour.RED


class Chosen(BaseModel):
    v: Literal[Colour.RED] = Colour.RED


class Either(BaseModel):
    v: int | str


class Tree(BaseModel):
    child: Tree | None = None
    more: dict[str, JsonValue] = Field(default_factory=dict)


NOT_PLAIN: tuple[type[BaseModel], ...] = (
    LaxInt, LaxFloat, LaxIntInStrictNullable, LaxInsideStrict, NanDefault, MadeDefault, HalfDefault, Extra, Kombu,
    KombuInside, Stripped, StrippedKeys, Lowered, OtherKeys, Computed, Validated, ValidatedWhole, Serialised,
    SerialisedPlainly, SerialisedWhole, PostInit, OwnInit, Root, Dated, Exact, Coloured, Chosen, Either, Tree,
)  # fmt: skip


def _chain(levels: int) -> dict[str, Any]:
    return {"child": _chain(levels - 1)} if levels else {}


TRICKY: tuple[dict[str, Any], ...] = (
    {},
    *(
        {"v": value}
        for value in (
            1, True, None, "", "x", "é", 0.5, 1e18, 1e19, -1e19, 2**63 - 1, 2**63, "9" * 30, "1e400", "inf", "nan", nan,
            "-0.0", -0.0, 1e16, 1e-7, 5e-324, [], {}, [1e19], {"v": 1e19}, {"v": "9" * 30}, "red", "2030-01-31",
            {" __type__": 1, "__value__": 2}, {"__type__": 1, "__value__ ": 2}, {"__type__": 1}, {"7": 1}, {"\ud83d": 1},
            "\ud83d", Colour.RED, Big.A, b"x", object(), (1, 2), [[[]]],
        )
    ),
    {"w": [1e19]},
    {"v": 1, "w": ["9" * 30]},
    {"__type__": "a", "value": "b"},
    {"__type__": "a", "__value__": "b"},
    {"__type__": "a", "__value__": "b", "x": 1},
    {"v": {}},
    {"x": inf},
    {"count": 3, "share": 2**63 - 1},
    {"count": 1e18, "share": 1},
    _chain(MAX_DEPTH - 1),
    _chain(MAX_DEPTH),
)  # fmt: skip


@pytest.mark.parametrize("fields", PLAIN)
def test_texts_strict_numbers_and_json_values_are_proved_to_be_plain(fields: type[BaseModel]) -> None:
    assert writes_what_it_reads(fields)


@pytest.mark.parametrize("fields", NOT_PLAIN)
def test_what_might_write_something_else_is_checked_again(fields: type[BaseModel]) -> None:
    assert not writes_what_it_reads(fields)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # two of the models write what they did not declare
@pytest.mark.parametrize("fields", [*PLAIN, *NOT_PLAIN])
def test_a_tricky_payload_meets_the_same_message_or_refusal_as_with_two_checks(fields: type[BaseModel]) -> None:
    one, careful = encoders(fields)
    for payload in TRICKY:
        assert result(one, payload) == result(careful, payload), payload


def test_the_second_check_is_what_refuses_the_worst_of_them() -> None:
    for fields, payload, field in (
        (LaxInt, {"v": 1e19}, "payload.v"),
        (LaxFloat, {"v": "inf"}, "payload.v"),
        (NanDefault, {}, "payload.v"),
        (Kombu, {}, "payload"),
        (StrippedKeys, {"v": {" __type__": 1, "__value__": 2}}, "payload.v"),
        (Tree, _chain(MAX_DEPTH - 1), "payload." + ".".join(["child"] * 7) + "...."),
        (Computed, {"v": "x"}, "payload.twice"),
    ):
        refusal = result(encoders(fields)[0], payload)
        assert isinstance(refusal, tuple), fields
        assert refusal[0] == field


# Wider than what is accepted: every fault that a check knows may be in it.
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([2**63 - 1, 2**63, -(2**63), 1e16, 1e17, 123456789012345680.0, 5e-324, "\x7f", "\u2028", "</", "\x00"])
)  # fmt: skip
names = st.text(max_size=6) | st.sampled_from(["__type__", "__value__"])
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=10
)
inners = st.fixed_dictionaries(
    {"name": st.text(max_size=5)}, optional={"tags": st.lists(st.text(max_size=3), max_size=2), "more": anything}
)
plain_payloads = st.fixed_dictionaries(
    {},
    optional={
        "text": st.sampled_from(["a", "éa", "b"]),
        "öther": st.text(max_size=9),
        "count": st.integers() | st.booleans() | st.floats(),
        "share": leaves,
        "finite": leaves,
        "flag": leaves,
        "kind": st.sampled_from(["x", 7, True, None, "y"]),
        "anything": anything,
        "value": anything,
        "bare_list": st.lists(anything, max_size=3),
        "bare_object": anything,
        "inner": inners,
        "inners": st.lists(inners, max_size=3),
        "left_out": st.text(max_size=3),
        "unknown": anything,
    },
)


@given(plain_payloads)
def test_any_payload_of_plain_fields_is_the_same_bytes_or_refusal_as_with_two_checks(payload: dict[str, Any]) -> None:
    one, careful = PLAIN_ENCODERS
    assert result(one, payload) == result(careful, payload)


@given(st.text(min_size=1, max_size=20), st.text(max_size=20), anything)
def test_any_summary_is_the_same_bytes_or_refusal_as_with_two_checks(share: str, content: str, options: Any) -> None:
    one, careful = SUMMARIZE_ENCODERS
    payload = {"share_id": share, "content": content, "options": options}
    assert result(one, payload) == result(careful, payload)


PLAIN_ENCODERS = encoders(Plain)
SUMMARIZE_ENCODERS = encoders(BUILTIN["summarize_llm"].fields)


@pytest.fixture
def users_file(tmp_path: Path) -> Path:
    path = tmp_path / "types.toml"
    path.write_text(
        '[task_types.t.routes.api]\ncelery_task = "t"\nqueue = "q"\n[task_types.t.fields]\n'
        'share_id = "string"\nsize = { type = "integer", minimum = 0 }\nlabels = { type = "array", items = "string", '
        'default = [] }\noptions = { type = "object", default = {} }\nany = { type = "any", required = false }\n'
        'tone = { type = "string", choices = ["long", "short"], default = "short" }\n'
    )
    return path


def test_the_types_of_a_users_file_are_plain_too(users_file: Path) -> None:
    (given_type,) = TaskTypes.from_toml(users_file)
    assert writes_what_it_reads(given_type.fields)
    one, careful = encoders(given_type.fields)
    payload = {"share_id": "s", "size": 3, "options": {"ä": [1.5, None]}}
    sent = result(one, payload)
    assert sent == result(careful, payload)
    assert isinstance(sent, Envelope)
    assert json.loads(sent.body)[1] == {**payload, "labels": [], "any": None, "tone": "short"}
