"""A user's own task types, from a TOML file (`ML_TASK_TYPES`).

    [task_types.classify_image]
    preferred = "api"                       # may be left out if there is one route

    [task_types.classify_image.routes.api]
    celery_task = "vision.tasks.classify"
    queue = "ml.vision"

    queue_type = "classic"                  # how the worker declares it; without, a quorum queue
    arguments = { x-max-priority = 5 }      # exactly these; without, a delivery limit of 5 on a quorum queue
                                            # or `declare = false`: the queue is made by others

    [task_types.classify_image.fields]
    share_id = "string"                     # short for { type = "string" }: required
    content = { type = "string", min_length = 1, max_length = 8192 }
    labels = { type = "array", items = "string", default = [] }
    options = { type = "object", default = {} }

A field has a `type` (string, integer, number, boolean, object, array, any) and may have `required`, `default`,
`min_length`, `max_length` (characters, items or keys), `minimum`, `maximum`, `choices` and `items`. A default makes
it optional; an optional field without one is sent as null. Nothing is converted: "5" is no integer.

A queue that this file names is made when the producer connects.

Fields become the keyword arguments of the Celery task. Any other field in a payload is refused.
"""

from __future__ import annotations

import tomllib
from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic_core import PydanticCustomError

from mlproducer.envelope.queues import QueueType, queue_arguments
from mlproducer.envelope.tasktype import Route, TaskType
from mlproducer.errors import InvalidTask, SettingsError
from mlproducer.values.limits import check_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def _number(value: object) -> object:
    # Not `StrictInt | StrictFloat`: pydantic names the members of a union in the path of an error.
    if type(value) not in {int, float}:
        raise PydanticCustomError("number_type", "Input should be a valid number")
    return value


Kind = Literal["string", "integer", "number", "boolean", "object", "array", "any"]

_PYTHON: Final[dict[str, Any]] = {
    "string": StrictStr,
    "integer": StrictInt,
    "number": Annotated[Any, AfterValidator(_number)],
    "boolean": StrictBool,
    "object": dict[str, JsonValue],
    "array": list[JsonValue],
    "any": JsonValue,
}
_SIZED: Final = frozenset({"string", "object", "array"})
_ORDERED: Final = frozenset({"integer", "number"})
_CHOOSABLE: Final = frozenset({"string", "integer"})

_STRICT: Final = ConfigDict(extra="forbid", frozen=True, strict=True)


class _FieldTable(BaseModel):
    model_config = _STRICT

    type: Kind
    required: bool | None = None
    default: JsonValue = None
    min_length: Annotated[int, Field(ge=0)] | None = None
    max_length: Annotated[int, Field(ge=0)] | None = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    choices: Annotated[list[StrictStr | StrictInt], Field(min_length=1)] | None = None
    items: Kind | None = None


class _RouteTable(BaseModel):
    model_config = _STRICT

    celery_task: str
    queue: str
    queue_type: QueueType | None = None
    arguments: dict[str, Any] | None = None
    declare: bool = True


def _spelled_out(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


class _TypeTable(BaseModel):
    model_config = _STRICT

    routes: Annotated[dict[str, _RouteTable], Field(min_length=1)]
    fields: dict[str, Annotated[_FieldTable, BeforeValidator(_spelled_out)]]
    preferred: str | None = None


class _File(BaseModel):
    model_config = _STRICT

    task_types: dict[str, _TypeTable]


def read_task_types(path: Path) -> list[TaskType]:
    """The task types of the file, in its order. Raises: SettingsError, naming the file, the table and the key."""
    try:
        with path.open("rb") as file:
            raw = tomllib.load(file)
    except OSError as exc:
        raise SettingsError(f"ML_TASK_TYPES: {path} cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        number = exc.object.count(b"\n", 0, exc.start) + 1
        raise SettingsError(f"ML_TASK_TYPES: {path}, line {number}: not valid TOML: it is not UTF-8") from None
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"{path}: not valid TOML: {exc}") from exc
    try:
        file_table = _File.model_validate(raw)
    except ValidationError as exc:
        faults = exc.errors(include_url=False, include_input=False)
        raise SettingsError(
            "; ".join(_at(path, fault["loc"], _words(fault["type"], fault["msg"])) for fault in faults)
        ) from None
    return [_task_type(path, name, table) for name, table in file_table.task_types.items()]


def _task_type(path: Path, name: str, table: _TypeTable) -> TaskType:
    where = ("task_types", name)
    definitions: dict[str, Any] = {}
    for number, (field, spec) in enumerate(table.fields.items()):
        # The model's own attribute names must not limit how a field may be called (`schema`, `_id`, `copy`), so the
        # field's name is an alias.
        definitions[f"field_{number}"] = _definition(path, (*where, "fields", field), field, spec)
    fields = create_model(
        f"{name}_fields",
        __config__=ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, serialize_by_alias=True),
        **definitions,
    )
    routes: dict[str, Route] = {}
    for backend, route in table.routes.items():
        try:
            routes[backend] = _route(route)
        except SettingsError as exc:
            raise SettingsError(_at(path, (*where, "routes", backend), str(exc))) from None
    preferred = table.preferred or ("api" if "api" in routes else None)
    if preferred is None and len(routes) > 1:
        raise SettingsError(_at(path, (*where, "preferred"), f"is missing; choose one of {', '.join(routes)}"))
    try:
        return TaskType(name, routes, fields, preferred or next(iter(routes)))
    except SettingsError as exc:
        raise SettingsError(_at(path, where, str(exc))) from None


def _route(table: _RouteTable) -> Route:
    arguments = queue_arguments(table.queue_type, table.arguments)
    if arguments is not None and not table.declare:
        raise SettingsError("declare = false leaves the queue to others: then queue_type and arguments say nothing")
    return Route(table.celery_task, table.queue, arguments, table.declare, at_start=True)


def _definition(path: Path, where: tuple[str, ...], name: str, spec: _FieldTable) -> tuple[Any, Any]:
    """Type and default of one field, as `create_model` takes them."""
    _check_keys(path, where, spec)
    annotation = _annotation(spec)
    given = spec.model_fields_set
    if "default" not in given and spec.required is not False:
        return annotation, Field(alias=name)
    if "default" in given and spec.required:
        raise SettingsError(_at(path, (*where, "required"), "a required field has no default; remove one of the two"))
    if "default" not in given:
        return annotation | None, Field(None, alias=name)
    try:
        TypeAdapter(annotation).validate_python(spec.default)
        check_json(spec.default, "default")
    except ValidationError as exc:
        raise SettingsError(_at(path, (*where, "default"), exc.errors(include_url=False)[0]["msg"])) from None
    except InvalidTask as exc:
        raise SettingsError(_at(path, (*where, "default"), exc.problem)) from None
    # Pydantic copies a default that can change, so two tasks never share one.
    return annotation, Field(spec.default, alias=name)


def _annotation(spec: _FieldTable) -> Any:  # noqa: ANN401  # a type form, which has no static type
    kind: Any = _PYTHON[spec.type]
    if spec.choices is not None:
        kind = Literal[tuple(spec.choices)]
    if spec.items is not None:
        kind = GenericAlias(list, (_PYTHON[spec.items],))
    limits = Field(min_length=spec.min_length, max_length=spec.max_length, ge=spec.minimum, le=spec.maximum)
    return Annotated[kind, limits]


def _check_keys(path: Path, where: tuple[str, ...], spec: _FieldTable) -> None:
    """A limit on a type that does not have it would silently check nothing."""
    for keys, kinds in (
        (("min_length", "max_length"), _SIZED),
        (("minimum", "maximum"), _ORDERED),
        (("choices",), _CHOOSABLE),
        (("items",), frozenset({"array"})),
    ):
        for key in keys:
            if getattr(spec, key) is not None and spec.type not in kinds:
                raise SettingsError(_at(path, (*where, key), f"only for {_either(kinds)}, this field is {spec.type}"))
    for low, high in (("min_length", "max_length"), ("minimum", "maximum")):
        least, most = getattr(spec, low), getattr(spec, high)
        if least is not None and most is not None and least > most:
            raise SettingsError(_at(path, (*where, low), f"is over {high}"))
    wanted = str if spec.type == "string" else int
    if spec.choices is not None and not all(type(choice) is wanted for choice in spec.choices):
        raise SettingsError(_at(path, (*where, "choices"), f"must all be of type {spec.type}"))


def _either(kinds: Iterable[str]) -> str:
    return " or ".join(sorted(kinds))


def _words(kind: str, message: str) -> str:
    match kind:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return "unknown key; is it misspelt?"
        case _:
            return message


def _at(path: Path, loc: tuple[int | str, ...], problem: str) -> str:
    *table, key = (str(part) for part in loc)
    inside = f" [{'.'.join(table)}]" if table else ""
    return f"{path}:{inside} {key}: {problem}"
