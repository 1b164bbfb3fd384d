"""Models of what a caller gives: whatever is wrong with it is one `InvalidTask` that names every fault."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from types import NoneType
from typing import Annotated, Any, ClassVar, Final, Self, TypeVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    JsonValue,
    ValidationError,
)
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema

from mlproducer.errors import Fault, InvalidTask
from mlproducer.values.convert import Path, converted
from mlproducer.values.limits import HALF_A_PAIR, check_json, dotted

T = TypeVar("T")

A_MOMENT: Final = "an aware datetime, or ISO 8601 with an offset such as 2030-01-31T12:00:00+00:00"
_IN_30_S: Final = "in 30 seconds is datetime.now(UTC) + timedelta(seconds=30)"
_NO_NUMBER: Final = f"a number is no moment; give {A_MOMENT}; {_IN_30_S}"
NO_MOMENT: Final = f"is no moment; give {A_MOMENT}; {_IN_30_S}"
_NUMERIC: Final = re.compile(r"\s*[+-]?(?:[0-9_.]+(?:e[+-]?[0-9]+)?|nan|inf(?:inity)?)\s*", re.IGNORECASE)
NEEDS_ZONE: Final = f"needs a time zone: give {A_MOMENT}"

_WORDS: Final = {
    "extra_forbidden": "unknown field; is it misspelt?",
    "missing": "is missing",
    "recursion_loop": "nested too deep, or refers to itself",
    "string_unicode": HALF_A_PAIR,
    "timezone_aware": NEEDS_ZONE,
}
_CELERYS: Final = {"countdown": f"a task has no countdown; give `eta`: {_IN_30_S}"}
"""Options of Celery's own `apply_async` that go by another name here."""


class Given(BaseModel):
    """A frozen model that takes no unknown fields. Inside another model it is validated as any model is.

    Raises: InvalidTask, from its constructor and from each `model_validate…`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    shape: ClassVar[str] = "a JSON object"
    """What it is, for who sends something else altogether."""

    def __init__(self, /, **data: Any) -> None:  # noqa: ANN401  # as in the base class
        try:
            self.__pydantic_validator__.validate_python(data, self_instance=self)
        except ValidationError as error:
            refusal = invalid(error, self.shape)
        else:
            return
        raise refusal  # out here, so that pydantic's error, which holds what was given, is no part of it

    # As for `BaseModel.__init__` itself: validation fills the model directly, and never by way of this.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # pydantic's own mark, which has no type

    @classmethod
    def model_validate(cls, obj: Any, **how: Any) -> Self:  # noqa: ANN401  # as in the base class
        return _validated(super().model_validate, cls.shape, obj, **how)

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **how: Any) -> Self:  # noqa: ANN401  # as above
        return _validated(super().model_validate_json, cls.shape, json_data, **how)

    @classmethod
    def model_validate_strings(cls, obj: Any, **how: Any) -> Self:  # noqa: ANN401  # as above
        return _validated(super().model_validate_strings, cls.shape, obj, **how)

    @classmethod
    def parse(cls, data: object) -> Self:
        """From JSON (bytes or text) or from a mapping; one of its own is returned as it is. Raises: InvalidTask."""
        if isinstance(data, cls):
            return data
        if isinstance(data, bytes | bytearray | str):
            return cls.model_validate_json(data)
        return cls.model_validate(data)


def _validated(validate: Callable[..., T], shape: str, *given: Any, **named: Any) -> T:  # noqa: ANN401  # pydantic's own
    try:
        return validate(*given, **named)
    except ValidationError as error:
        refusal = invalid(error, shape)
    raise refusal  # as above


def invalid(
    error: ValidationError,
    shape: str = "a JSON object",
    *,
    under: tuple[str, ...] = (),
    at: Callable[[Path], Path] = lambda path: path,
) -> InvalidTask:
    """All faults that pydantic found, without the values. `under` is the path of what was validated; `at` leads back
    from a path in there to what the caller gave.
    """
    faults = [_fault(each, shape, under, at) for each in error.errors(include_url=False, include_input=False)]
    return InvalidTask.of(list(dict.fromkeys(faults)))


def _fault(found: ErrorDetails, shape: str, under: tuple[str, ...], at: Callable[[Path], Path]) -> Fault:
    kind, loc = found["type"], found["loc"]
    if kind == "content":
        # Pydantic keeps a path as UTF-8, and so loses the half of a surrogate pair that may be what is wrong.
        path = found["ctx"]["path"]
        loc = (*loc[: len(loc) - len(path)], *path)
    if kind == "json_invalid":
        return Fault("", found["msg"].replace("Invalid JSON", "not valid JSON", 1))
    if kind in {"model_type", "model_attributes_type", "dict_type"} and not loc and not under:
        return Fault("", shape)
    words = _WORDS.get(kind) or found["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden" and len(loc) == 1:
        words = _CELERYS.get(str(loc[0]), words)
    if kind.startswith("datetime_"):
        words = f"{words}; give {A_MOMENT}"
    return Fault(dotted((*under, *at(loc))), words)


def _no_number(value: object) -> object:
    """Pydantic takes a number, also one in a text, for seconds since 1970: `eta=30` would be long past."""
    if isinstance(value, str):
        numeric = _NUMERIC.fullmatch(value) is not None
    else:
        numeric = isinstance(value, int | float | Decimal)
    if numeric:
        raise PydanticCustomError("moment", _NO_NUMBER)
    if not isinstance(value, str | datetime | NoneType):
        raise PydanticCustomError("moment", NO_MOMENT)
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_no_number)]
"""A point in time: an aware datetime, or its ISO 8601 text."""


class _Content:
    """The validator of `Content`. JSON goes the short way; only what is none is converted, in Python and slower."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        inner = handler.generate_schema(dict[str, JsonValue])
        return core_schema.json_or_python_schema(
            json_schema=core_schema.no_info_after_validator_function(_fine, inner),
            python_schema=core_schema.no_info_wrap_validator_function(_converted, inner),
            serialization=core_schema.plain_serializer_function_ser_schema(dict),
        )


def _converted(value: object, validate: Callable[[object], object]) -> object:
    try:
        found = validate(value)
    except ValidationError:
        return _refuse_or(value)
    return _fine(found)


def _fine(value: object) -> object:
    try:
        check_json(value, "")
    except InvalidTask:
        return _refuse_or(value)
    return value


def _refuse_or(value: object) -> object:
    tree, faults = converted(value)
    if not faults and not isinstance(tree, dict):
        faults = [((), f"{type(value).__name__} is no object")]
    if not faults:
        return tree
    raise ValidationError.from_exception_data(
        "content",
        [
            InitErrorDetails(
                type=PydanticCustomError("content", "{words}", {"words": words, "path": path}), loc=path, input=None
            )
            for path, words in faults
        ],
    )


Content = Annotated[Mapping[str, Any], _Content]
"""An object of whatever values `values.convert` takes; held as its copy, of JSON values and typed ones."""
