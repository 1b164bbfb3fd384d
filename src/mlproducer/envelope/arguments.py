"""From a payload to the keyword arguments of the message: checked by the fields of its task type, and written.

Most payloads are JSON, and then the model of the fields writes what it made of them. A payload with typed values
(`values.kombu`) is written with care for two things:

- What the caller gave as a datetime arrives as a datetime, also where the model knows the field by that type; what he
  gave as text arrives as text, also where the model makes a datetime of it. So the model's JSON is taken, and at the
  places of typed values what the model holds there.
- A field of pydantic's `JsonValue` takes no typed value. There kombu's object goes in for it, and the value comes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from mlproducer.envelope.plain import writes_what_it_reads
from mlproducer.envelope.reference import KEYWORD
from mlproducer.errors import InvalidTask
from mlproducer.values.convert import taken, written
from mlproducer.values.given import invalid
from mlproducer.values.kombu import TYPED, Typed, coded, object_of
from mlproducer.values.limits import check_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlproducer.envelope.tasktype import Shape, TaskType

_UNDER: Final = ("payload",)
_NO_JSON_VALUE: Final = "invalid-json-value"
"""Pydantic's name for an error of its `JsonValue`."""

_Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Fields:
    """A task type's model, by what is asked of it for each task."""

    validate: Callable[[object], Any]
    dump: Callable[..., Any]
    write: Callable[[Any], bytes] | None
    """The model as JSON text, if what it writes needs no second check (`envelope.plain`)."""
    shape: Shape | None = None
    backend: str = ""

    @classmethod
    def of(cls, task_type: TaskType, backend: str) -> Fields:
        model = task_type.fields
        serializer = model.__pydantic_serializer__
        write = serializer.to_json if writes_what_it_reads(model) else None
        validate = model.__pydantic_validator__.validate_python
        return cls(validate, serializer.to_python, write, task_type.shape, backend)


def arguments(fields: Fields, payload: object) -> bytes:
    """The payload checked by its type's fields, defaults filled in, as JSON. Raises: InvalidTask, naming all faults."""
    plain = _is_json(payload)
    # Before the model sees it, because pydantic would write half a surrogate pair in a key as U+FFFD.
    content: Any = payload if plain else taken(payload, "payload")
    if KEYWORD in content:
        raise InvalidTask("the name is taken: it holds the reference to a stored payload", field=f"payload.{KEYWORD}")
    given, shape = content, fields.shape
    if shape is not None:
        content = shape.fill(given, fields.backend)
    try:
        content, checked = _validated(fields, content, plain=plain)
        if plain and fields.write is not None:
            return fields.write(checked)
        made = _joined(content, *_dumped(fields, checked))
    except ValidationError as error:
        refusal = invalid(error, under=_UNDER, at=lambda path: path if shape is None else shape.given(given, path))
    except PydanticSerializationError as error:
        refusal = InvalidTask(f"cannot be written as JSON by the fields of its task type: {error}", field="payload")
    else:
        if type(made) is not dict:
            # A worker that finds no object in this place stops altogether, with every task that it holds.
            raise InvalidTask("the fields of its task type do not write an object", field="payload")
        # What the model made of the payload is what travels, so it is checked again.
        return to_json(coded(taken(made, "payload")))
    raise refusal


def _is_json(payload: object) -> bool:
    try:
        check_json(payload, "payload")
    except InvalidTask:
        return False
    return True


class _Coded(dict[str, Any]):
    """A typed value in kombu's form, for a model that takes JSON alone."""

    def __init__(self, value: Typed) -> None:
        super().__init__(object_of(value))
        self.value = value


def _validated(fields: Fields, content: Any, *, plain: bool) -> tuple[Any, Any]:  # noqa: ANN401  # of any kind
    """What was given to the model, and what it made of it. Raises: ValidationError."""
    try:
        return content, fields.validate(content)
    except ValidationError as error:
        refused = [
            each["loc"]
            for each in error.errors(include_url=False, include_input=False, include_context=False)
            if each["type"] == _NO_JSON_VALUE
        ]
        if plain or not refused:
            raise
        hidden = {path for path in _typed_paths(content, ()) if any(_leads_by(path, loc) for loc in refused)}
    content = _hiding(content, hidden, ())
    return content, fields.validate(content)


def _typed_paths(value: object, path: _Path) -> Iterator[_Path]:
    match value:
        case dict():
            for key, item in value.items():
                yield from _typed_paths(item, (*path, key))
        case list():
            for index, item in enumerate(value):
                yield from _typed_paths(item, (*path, index))
        case _ if isinstance(value, TYPED):
            yield path


def _leads_by(path: _Path, loc: _Path) -> bool:
    """Whether `loc` is this path: between its keys pydantic names the kinds of the values on the way."""
    rest = iter(loc)
    return all(part in rest for part in path)


def _hiding(value: Any, hidden: set[_Path], path: _Path) -> Any:  # noqa: ANN401  # of any kind
    match value:
        case dict():
            return {key: _hiding(item, hidden, (*path, key)) for key, item in value.items()}
        case list():
            return [_hiding(item, hidden, (*path, index)) for index, item in enumerate(value)]
        case _:
            return _Coded(value) if path in hidden else value


def _dumped(fields: Fields, checked: object) -> tuple[Any, Any]:
    """The model as JSON and as Python values. Raises: PydanticSerializationError."""
    as_python = fields.dump(checked, mode="python")
    try:
        return fields.dump(checked, mode="json"), as_python
    except UnicodeDecodeError:  # of bytes, which pydantic writes as text
        return as_python, as_python


def _joined(given: object, as_json: Any, as_python: Any) -> Any:  # noqa: ANN401  # of any kind
    """The model's JSON, with what it holds in Python at the places where a typed value was given; its sets sorted."""
    if isinstance(given, _Coded):
        return given.value
    if isinstance(given, TYPED):
        return as_python
    if isinstance(as_python, set | frozenset):
        return sorted(as_json, key=written)
    match as_json, as_python:
        case dict(), dict() if len(as_json) == len(as_python):
            of = given if isinstance(given, dict) else {}
            held = as_python.values()
            return {
                key: _joined(of.get(key), item, other) for (key, item), other in zip(as_json.items(), held, strict=True)
            }
        case list(), list() | tuple() if len(as_json) == len(as_python):
            items = given if isinstance(given, list) and len(given) == len(as_json) else [None] * len(as_json)
            return [_joined(*three) for three in zip(items, as_json, as_python, strict=True)]
        case _:
            return to_jsonable_python(as_json) if isinstance(as_json, TYPED) else as_json
