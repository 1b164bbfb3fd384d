"""The answers as JSON has them: money is text, without an exponent."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from mlproducer.core.results import plain

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def view(answer: DataclassInstance) -> dict[str, Any]:
    found: dict[str, Any] = _view(asdict(answer))
    return found


def _view(part: object) -> Any:  # noqa: ANN401  # any JSON value
    match part:
        case dict():
            return {name: _view(each) for name, each in part.items()}
        case list():
            return [_view(each) for each in part]
        case Decimal():
            return plain(part)
        case _:
            return part
