"""Which fields of a task type write what they read: nothing that was not in the payload, and nothing in another form.

A payload is checked (`values.limits.check_json`) before the model of its fields sees it. In general what the model
makes of it is checked again: it may turn "inf" into infinity, 1e19 into an integer of 65 bits, or `" __type__"` into a
name that kombu acts on. A model of plain texts, numbers taken as they are, and JSON values cannot; what it writes goes
out unchecked, and is written once instead of twice.

The proof reads pydantic's core schema and goes by what it knows to be harmless. Whatever it does not know (a
validator, a serialiser, a key that a later pydantic adds) leaves a model with the second check.
"""

from __future__ import annotations

from types import NoneType
from typing import TYPE_CHECKING, Any, Final

from pydantic import JsonValue, TypeAdapter

from mlproducer.errors import InvalidTask
from mlproducer.values.kombu import KOMBU_TYPE
from mlproducer.values.limits import check_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel

_Schema = dict[str, Any]

_SCALARS: Final = (str, int, float, bool, NoneType)
_MAX_DEPTH: Final = 16
"""Levels of schema. Far below `values.limits.MAX_DEPTH`, so that an empty default cannot be one level too many; and a
model that holds itself gets here."""


def writes_what_it_reads(model: type[BaseModel]) -> bool:
    """Whether JSON that passed `check_json`, validated and written by `model`, passes it again for certain."""
    schema: Any = model.__pydantic_core_schema__
    return type(schema) is dict and _Proof().holds(schema, strict=False, depth=0)


class _Proof:
    def __init__(self) -> None:
        self._definitions: dict[str, _Schema] = {}

    def holds(self, schema: _Schema, *, strict: bool, depth: int) -> bool:
        """`strict` is the rule of the model around it: a value is taken as it is or refused."""
        kind = schema["type"]
        keys, harmless = _RULES.get(kind, _UNKNOWN)
        if depth > _MAX_DEPTH or not schema.keys() <= keys | _EVERYWHERE or not harmless({"strict": strict, **schema}):
            return False
        if kind == "definitions":
            self._definitions |= {each["ref"]: each for each in schema["definitions"]}
        elif kind == "model":
            strict = schema.get("config", {}).get("strict", False)
        return all(self.holds(each, strict=strict, depth=depth + 1) for each in self._inside(schema))

    def _inside(self, schema: _Schema) -> list[_Schema]:
        if schema["type"] == "definition-ref":
            ref = schema["schema_ref"]
            return [] if ref == _JSON_VALUE else [self._definitions.get(ref, {"type": "nowhere"})]
        inside = [schema[key] for key in ("schema", "items_schema", "keys_schema", "values_schema") if key in schema]
        return inside + list(schema.get("fields", {}).values())


def _always(_schema: _Schema) -> bool:
    return True


def _never(_schema: _Schema) -> bool:
    return False


def _as_it_is(schema: _Schema) -> bool:
    """Else 1e19 and "9999999999999999999" are integers too."""
    return bool(schema["strict"])


def _finite(schema: _Schema) -> bool:
    """Else "inf" is a number too."""
    return _as_it_is(schema) or schema.get("allow_inf_nan") is False


def _literal(schema: _Schema) -> bool:
    return all(_scalar(value) for value in schema["expected"])


def _text_keys(schema: _Schema) -> bool:
    return schema.get("keys_schema", {"type": "any"})["type"] in {"str", "any"}


def _model(schema: _Schema) -> bool:
    config = schema.get("config", {})
    return (
        not schema.get("custom_init")
        and not schema.get("root_model")
        and config.keys() <= _HARMLESS_CONFIG
        and config.get("extra_fields_behavior") in _NO_EXTRAS
    )


def _fields(schema: _Schema) -> bool:
    names = set(schema["fields"])
    names |= {each["serialization_alias"] for each in schema["fields"].values() if "serialization_alias" in each}
    return (
        not schema.get("computed_fields")
        and schema.get("extra_behavior") in _NO_EXTRAS
        # With defaults, a model of these two fields makes one of kombu's objects of an empty one.
        and not names & KOMBU_TYPE
        and _json(dict.fromkeys(names))
    )


def _typed_dict(schema: _Schema) -> bool:
    """No aliases and no defaults: the keys that it writes are those that it read. Others stay as they are, or go."""
    return (
        not schema.get("computed_fields")
        and not schema["fields"].keys() & KOMBU_TYPE
        and schema.get("config", {}).keys() <= _HARMLESS_CONFIG
        and _json(dict.fromkeys(schema["fields"]))
    )


def _default(schema: _Schema) -> bool:
    if "default_factory" in schema:
        factory = schema["default_factory"]
        return (factory is dict or factory is list) and not schema.get("default_factory_takes_data")
    default = schema.get("default")
    return _scalar(default) or (type(default) in {dict, list} and not default)


def _scalar(value: object) -> bool:
    return type(value) in _SCALARS and _json(value)


def _json(value: object) -> bool:
    try:
        check_json(value, "")
    except InvalidTask:
        return False
    return True


def _json_value_ref() -> object:
    """The name by which pydantic's schemas refer to JsonValue, the same in all of one process."""
    schema: Any = TypeAdapter(JsonValue).core_schema
    return schema.get("schema", {}).get("schema_ref")


_JSON_VALUE: Final = _json_value_ref()

_EVERYWHERE: Final = {"type", "metadata", "strict"}
_SIZES: Final = {"min_length", "max_length", "fail_fast"}
_BOUNDS: Final = {"ge", "gt", "le", "lt", "multiple_of", "allow_inf_nan"}
_RULES: Final[dict[str, tuple[set[str], Callable[[_Schema], bool]]]] = {
    "any": (set(), _always),
    "none": (set(), _always),
    "bool": (set(), _always),
    "str": (_SIZES | {"pattern", "regex_engine"}, _always),
    "int": (_BOUNDS, _as_it_is),
    "float": (_BOUNDS, _finite),
    "literal": ({"expected"}, _literal),
    "nullable": ({"schema"}, _always),
    "list": (_SIZES | {"items_schema"}, _always),
    "dict": (_SIZES | {"keys_schema", "values_schema"}, _text_keys),
    "default": ({"schema", "default", "default_factory", "default_factory_takes_data"}, _default),
    "model": ({"cls", "schema", "config", "custom_init", "root_model", "ref", "frozen"}, _model),
    "model-fields": ({"fields", "model_name", "computed_fields", "extra_behavior"}, _fields),
    "model-field": ({"schema", "validation_alias", "serialization_alias", "serialization_exclude", "frozen"}, _always),
    "typed-dict": ({"fields", "cls", "cls_name", "config", "computed_fields", "extra_behavior", "ref"}, _typed_dict),
    "typed-dict-field": ({"schema", "required"}, _always),
    "definitions": ({"schema", "definitions"}, _always),
    "definition-ref": ({"schema_ref"}, _always),
}
"""By kind of schema: the keys that can do no harm, of which any other may (`serialization`, `strip_whitespace`), and
what must be true of it."""
_UNKNOWN: Final = (_EVERYWHERE, _never)
_NO_EXTRAS: Final = (None, "forbid", "ignore")
_HARMLESS_CONFIG: Final = {
    "title",
    "strict",
    "frozen",
    "hide_input_in_errors",
    "extra_fields_behavior",
    "serialize_by_alias",
    "validate_by_alias",
    "validate_by_name",
    "populate_by_name",
}
