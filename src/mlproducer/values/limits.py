"""What a payload may hold: JSON that every worker decodes to what was sent.

What is refused here would be accepted by the broker and lost or changed at the worker: Celery acks a message whose
body it cannot decode, with or without a dead letter exchange.

| refused | because |
|---|---|
| NaN, infinity | not JSON; strict readers fail, others read null |
| an integer beyond signed 64 bit | many readers round it; Python's own refuses more than 4300 digits. Send a string |
| a lone surrogate | has no UTF-8 form; some encoders would silently send U+FFFD in its place |
| an object of exactly `__type__` and `__value__` | kombu would decode it as a Python type, or fail |
| more than 64 levels | kombu's decoder recurses; the worker's stack is not ours to spend |

`check_json` is the quick look: most payloads are JSON as they come. `values.convert` takes what is not, and tells all
faults.
"""

from __future__ import annotations

from math import isfinite
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

from mlproducer.errors import InvalidTask
from mlproducer.values.kombu import KOMBU_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_DEPTH: Final = 64
"""Levels of objects and arrays, the payload itself being the first."""
MIN_INT: Final = -(2**63)
MAX_INT: Final = 2**63 - 1
HALF_A_PAIR: Final = "half of a surrogate pair, which has no UTF-8 form; was the text cut in two?"

LIKE_KOMBUS: Final = (
    "an object of exactly `__type__` and `__value__` would be decoded as a Python type by the worker; rename a key, or "
    "give the Python value itself (a datetime, UUID, Decimal or bytes)"
)
NO_KEY: Final = "a key must be a string"
TOO_DEEP: Final = f"nested deeper than {MAX_DEPTH} levels"
_SHOWN_KEY: Final = 40
_SHOWN_LEVELS: Final = 8

_FINE: Final[dict[type, Callable[[Any], bool]]] = {
    str: str.isascii,
    int: range(MIN_INT, MAX_INT + 1).__contains__,
    float: isfinite,
    bool: frozenset((False, True)).__contains__,
    NoneType: frozenset((None,)).__contains__,
}
"""The common leaves and what shows at once that they are fine: most of a payload passes here, without a call of Python
and without a path. What does not show it, such as a text that is not ASCII, is looked at by `_check`."""

_Path = tuple["_Path | None", object]


def check_json(value: object, field: str) -> None:
    """Return if `value` is JSON within the limits. Raises: InvalidTask, with the dotted path of the first fault."""
    _check(value, (None, field), 1)


def dotted(path: Iterable[object]) -> str:
    """`payload.options.tone`, in printable ASCII, long keys and deep paths cut: keys come from the caller."""
    parts = [_shown(part) for part in path]
    if len(parts) > _SHOWN_LEVELS:
        parts[_SHOWN_LEVELS:] = ["..."]
    return ".".join(parts)


def _shown(part: object) -> str:
    text = str(part)
    return (text if len(text) <= _SHOWN_KEY else text[:_SHOWN_KEY] + "~").encode("unicode_escape").decode()


def _refuse(path: _Path, problem: str) -> InvalidTask:
    parts: list[object] = []
    rest: _Path | None = path
    while rest is not None:
        rest, part = rest
        parts.append(part)
    return InvalidTask(problem, field=dotted(reversed(parts)))


def _check(value: object, path: _Path, depth: int) -> None:
    match value:
        case dict():
            _check_object(value, path, depth)
        case list() | tuple():
            if depth > MAX_DEPTH:
                raise _too_deep(path)
            for index, item in enumerate(value):
                fine = _FINE.get(type(item))
                if fine is None or not fine(item):
                    _check(item, (path, index), depth + 1)
        case _:
            problem = leaf_problem(value)
            if problem is not None:
                raise _refuse(path, problem)


def leaf_problem(value: object) -> str | None:
    """What is wrong with a value that is neither object nor array; None if it is fine."""
    match value:
        case None | bool():
            return None
        case str():
            return None if value.isascii() or encodable(value) else HALF_A_PAIR
        case int():
            return None if MIN_INT <= value <= MAX_INT else "an integer beyond 64 bit; send it as a string"
        case float():
            return None if isfinite(value) else "NaN and infinity are not JSON; send null or a string"
        case _:
            return f"{type(value).__name__} is no JSON type"


def _check_object(value: dict[object, object], path: _Path, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _too_deep(path)
    if "__type__" in value and value.keys() == KOMBU_TYPE:
        raise _refuse(path, LIKE_KOMBUS)
    for key, item in value.items():
        if type(key) is not str or not key.isascii():
            _check_key(key, path)
        fine = _FINE.get(type(item))
        if fine is None or not fine(item):
            _check(item, (path, key), depth + 1)


def _check_key(key: object, path: _Path) -> None:
    if not isinstance(key, str):
        raise _refuse((path, key), NO_KEY)
    if not encodable(key):
        raise _refuse((path, key), HALF_A_PAIR)


def _too_deep(path: _Path) -> InvalidTask:
    return _refuse(path, TOO_DEEP)


def encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
