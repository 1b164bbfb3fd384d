"""Values that JSON does not have, in the form that a Celery worker decodes (kombu's `utils/json.py`).

| value | `__type__` | `__value__` |
|---|---|---|
| datetime, date, time | `datetime`, `date`, `time` | ISO 8601 |
| Decimal | `decimal` | its digits as text |
| UUID | `uuid` | `{"hex": "32 digits"}` |
| bytes | `bytes`, or `base64` where they are no UTF-8 | text |

A caller who hands in such an object is refused (`values.limits`), so on the wire each one is ours.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final, TypeAlias
from uuid import UUID

Typed: TypeAlias = datetime | date | time | Decimal | UUID | bytes
TYPED: Final = (datetime, date, time, Decimal, UUID, bytes)
KOMBU_TYPE: Final = {"__type__", "__value__"}
"""The keys of such an object, and it has no other."""


def coded(value: Any) -> Any:  # noqa: ANN401  # a tree of JSON values and typed ones
    """The tree as JSON: objects and arrays made anew, typed values in kombu's form."""
    match value:
        case dict():
            return {key: coded(item) for key, item in value.items()}
        case list():
            return [coded(item) for item in value]
        case _ if isinstance(value, TYPED):
            return object_of(value)
        case _:
            return value


def object_of(value: Typed) -> dict[str, Any]:
    """Kombu's object for a typed value."""
    match value:
        case datetime():  # before date, which it is as well
            return _as("datetime", datetime.isoformat(value))
        case date():
            return _as("date", value.isoformat())
        case time():
            return _as("time", value.isoformat())
        case Decimal():
            return _as("decimal", str(value))
        case UUID():
            return _as("uuid", {"hex": value.hex})
        case bytes():
            return _bytes(value)


_READERS: Final[dict[str, Callable[[Any], Typed]]] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": lambda value: UUID(value["hex"]),
    "bytes": str.encode,
    "base64": b64decode,
}


def decoded(found: dict[str, Any]) -> Any:  # noqa: ANN401  # of any kind
    """An `object_hook` of `json.loads`, which makes of an object what kombu's own makes of it.

    Raises: ValueError, for a type that kombu does not have.
    """
    if found.keys() != KOMBU_TYPE:
        return found
    read = _READERS.get(found["__type__"])
    if read is None:
        raise ValueError("an object of a type that kombu does not have")
    return read(found["__value__"])


def _as(kind: str, value: object) -> dict[str, Any]:
    return {"__type__": kind, "__value__": value}


def _bytes(value: bytes) -> dict[str, Any]:
    try:
        return _as("bytes", value.decode())
    except UnicodeDecodeError:
        return _as("base64", b64encode(value).decode())
