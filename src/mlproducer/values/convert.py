"""What a caller hands in, as JSON values and typed ones (`values.kombu`), and all that is wrong with it.

| given | taken as |
|---|---|
| text, numbers, true, false, None, lists, mappings | themselves |
| datetime, date, time, Decimal, UUID, bytes | themselves; on the wire in kombu's form |
| Enum | its value |
| tuple | a list |
| set, frozenset | a list, sorted by what is written: the same set is the same content in every process |
| dataclass, pydantic model | an object of its fields |
| a scalar of numpy | the Python number, text or truth value that it stands for |

Keys are text. An Enum as a key is its value; an integer, a UUID and ASCII bytes are written as text.

Everything else is refused: an object that nobody described has no form that a worker would take for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from pydantic import BaseModel

from mlproducer.errors import MAX_FAULTS, Fault, InvalidTask
from mlproducer.values.kombu import KOMBU_TYPE, TYPED, coded
from mlproducer.values.limits import (
    HALF_A_PAIR,
    LIKE_KOMBUS,
    MAX_DEPTH,
    MAX_INT,
    MIN_INT,
    NO_KEY,
    TOO_DEEP,
    dotted,
    encodable,
    leaf_problem,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Path = tuple[str | int, ...]

_JSON_LEAVES: Final = (str, int, float, bool, type(None))
_NOT_FINITE: Final = "NaN and infinity are not JSON; send null or a string"
_NUMPY_MOMENTS: Final = frozenset({"datetime64", "timedelta64"})


def taken(value: object, field: str) -> Any:  # noqa: ANN401  # a tree of JSON values and typed ones
    """A copy of `value` that holds JSON values and typed ones only. Raises: InvalidTask, naming every fault."""
    tree, faults = converted(value)
    if faults:
        raise InvalidTask.of([Fault(dotted((field, *path)), problem) for path, problem in faults])
    return tree


def converted(value: object) -> tuple[Any, Sequence[tuple[Path, str]]]:
    """The copy, and what is wrong with it by path. With faults, the copy is of no use."""
    walk = _Walk()
    return walk.value(value, ()), walk.faults


class _Walk:
    """One way through a value. A fault leaves None in its place, and the walk goes on to the next one."""

    def __init__(self) -> None:
        self.faults: list[tuple[Path, str]] = []
        self._open: set[int] = set()
        """The containers that we are in, by identity: one that comes again holds itself."""

    def value(self, value: object, path: Path) -> Any:  # noqa: ANN401  # of any kind
        if type(value) in _JSON_LEAVES:
            problem = leaf_problem(value)
            return value if problem is None else self._fault(path, problem)
        if isinstance(value, Enum):
            return self.value(value.value, path)
        if _is_numpy(value):
            return self._numpy(value, path)
        if isinstance(value, str | int | float):  # of a class of the application's own
            return self.value(_exact(value), path)
        if isinstance(value, TYPED):
            problem = _typed_problem(value)
            return value if problem is None else self._fault(path, problem)
        return self._container(value, path)

    def _fault(self, path: Path, problem: str) -> Any:  # noqa: ANN401  # None, in the place of whatever was there
        if len(self.faults) <= MAX_FAULTS:  # one more than is named, which shows that there are more
            self.faults.append((path, problem))
        return None

    def _container(self, value: object, path: Path) -> Any:  # noqa: ANN401  # an object, an array, or None
        if id(value) in self._open:
            return self._fault(path, "refers to itself")
        if len(path) >= MAX_DEPTH:
            return self._fault(path, TOO_DEEP)
        self._open.add(id(value))
        try:
            return self._inside(value, path)
        except Exception as error:  # noqa: BLE001  # of the application's own mapping, model or property
            return self._fault(path, f"cannot be read: {type(value).__name__} raised {type(error).__name__}")
        finally:
            self._open.discard(id(value))

    def _inside(self, value: object, path: Path) -> Any:  # noqa: ANN401  # an object, an array, or None
        match value:
            case Mapping():
                return self._object(value.items(), path)
            case list() | tuple():
                return self._array(value, path)
            case set() | frozenset():
                return sorted(self._array(value, path), key=written)
            case BaseModel():
                return self.value(value.model_dump(), path)
            case _ if is_dataclass(value) and not isinstance(value, type):
                return self._object(((each.name, getattr(value, each.name)) for each in fields(value)), path)
            case _:
                return self._fault(path, _no_json(value))

    def _array(self, items: Iterable[object], path: Path) -> list[Any]:
        return [self.value(item, (*path, index)) for index, item in enumerate(items)]

    def _object(self, items: Iterable[tuple[object, object]], path: Path) -> Any:  # noqa: ANN401  # an object, or None
        made: dict[str, Any] = {}
        for key, item in items:
            name, problem = _name(key)
            if problem is not None:
                self._fault((*path, name), problem)
            elif name in made:
                self._fault((*path, name), "two keys are written alike")
            else:
                made[name] = self.value(item, (*path, name))
        if made.keys() == KOMBU_TYPE:
            return self._fault(path, LIKE_KOMBUS)
        return made

    def _numpy(self, value: Any, path: Path) -> Any:  # noqa: ANN401  # known by its attributes alone
        plain = value.item() if value.shape == () and callable(getattr(value, "item", None)) else value
        moment = type(value).__name__ in _NUMPY_MOMENTS
        # Its finest units have no Python type: `item` then gives the bare count of nanoseconds.
        if _is_numpy(plain) or (moment and not isinstance(plain, date)):
            return self._fault(path, _no_json(value))
        return self.value(plain, path)


def _is_numpy(value: object) -> bool:
    """Whether it is of numpy, which is none of our dependencies."""
    return type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "shape")


def _exact(value: str | float) -> str | int | float:
    match value:
        case str():
            return str.__str__(value)
        case int():
            return int.__int__(value)
        case float():
            return float.__float__(value)


def _typed_problem(value: object) -> str | None:
    match value:
        case Decimal():
            return None if value.is_finite() else _NOT_FINITE
        case datetime():
            return None if value == value else _NOT_FINITE  # noqa: PLR0124  # pandas' NaT is a datetime
        case _:
            return None


def _name(key: object) -> tuple[str, str | None]:
    """A key as text, and what is wrong with it."""
    if isinstance(key, Enum):
        return _name(key.value)
    match key:
        case str():
            return str.__str__(key), None if encodable(key) else HALF_A_PAIR
        case UUID():
            return str(key), None
        case int() if not isinstance(key, bool) and MIN_INT <= key <= MAX_INT:
            return str(int.__int__(key)), None
        case bytes() if key.isascii():
            return key.decode(), None
        case _:
            return type(key).__name__, NO_KEY


def _no_json(value: object) -> str:
    hint = "; send what its tolist() gives" if hasattr(value, "tolist") else ""
    return f"{type(value).__name__} is no JSON type{hint}"


def written(item: object) -> str:
    """What orders the items of a set: their JSON, which is the same in every process."""
    return json.dumps(coded(item), sort_keys=True)
