"""What the OpenAPI description says of answers and bodies; the routes themselves read and write bytes."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from pydantic import TypeAdapter

from mlproducer.http.problems import MEDIA_TYPE, TABLE

Responses = dict[int | str, dict[str, Any]]

_PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457. Names fields and settings, never the values sent.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri", "examples": ["urn:mlproducer:problem:invalid-task"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "field": {"type": "string", "description": "The dotted path of the fault."},
        "errors": {
            "type": "array",
            "description": "Every fault, where there may be several.",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "problem": {"type": "string"}},
            },
        },
        "retry_after": {"type": "number", "description": "Seconds; also in the Retry-After header."},
    },
}


def problems(*statuses: int) -> Responses:
    """The problems that a route answers with, in the words of the one table."""
    return {
        status: {
            "description": "; ".join(kind.title for _, kind in TABLE if kind.status == status),
            "content": {MEDIA_TYPE: {"schema": _PROBLEM}},
        }
        for status in statuses
    }


GUARDED: Final = problems(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
"""For routes that ask who calls."""


def success(status: int, description: str, shape: type) -> Responses:
    """An answer of this shape: a dataclass or a model."""
    return {status: {"description": description, "model": shape}}


def either(description: str, shape: type) -> Responses:
    """A 200 of this shape, or a stream of lines where the caller asked for one."""
    lines = {"schema": {"type": "string", "description": "One JSON object a line."}}
    return {200: {"description": description, "model": shape, "content": {"application/x-ndjson": lines}}}


def body(shape: type, media_type: str = "application/json") -> dict[str, Any]:
    """`openapi_extra` for a route that reads its body itself, within limits."""
    return _body(TypeAdapter(shape).json_schema(mode="validation"), media_type)


def lines(description: str) -> dict[str, Any]:
    """`openapi_extra` for a route that reads a stream of lines."""
    found = _body({"type": "string"}, "application/x-ndjson")
    found["requestBody"]["description"] = description
    return found


def _body(schema: dict[str, Any], media_type: str) -> dict[str, Any]:
    schema = _inline(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


def _inline(part: Any, definitions: dict[str, Any]) -> Any:  # noqa: ANN401  # any JSON value
    """Without references: theirs lead to the root of the schema, which is not the root of the OpenAPI document."""
    match part:
        case {"$ref": str(reference), **rest}:
            return {**_inline(definitions[reference.removeprefix("#/$defs/")], definitions), **rest}
        case dict():
            return {name: _inline(each, definitions) for name, each in part.items()}
        case list():
            return [_inline(each, definitions) for each in part]
        case _:
            return part
