"""The OpenAPI description, held against the service: what it promises is what comes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from http_bench import http_bench
from mlproducer import Settings
from mlproducer.http import create_app
from mlproducer.http.problems import TABLE

SCHEMA: dict[str, Any] = create_app(Settings.load(ml_spool_url="memory://")).openapi()
OPERATIONS = [
    (method, path, operation) for path, methods in SCHEMA["paths"].items() for method, operation in methods.items()
]
JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}
STRANGE: list[tuple[dict[str, str], bytes]] = [
    ({}, b""),
    (JSON, b""),
    (JSON, b"{}"),
    (JSON, b"[]"),
    (JSON, b"null"),
    (JSON, b'"\xff"'),
    (JSON, b'{"ids": NaN, "id": NaN, "task_type": NaN}'),
    (JSON, b'{"ids": [""], "all": 1}'),
    (JSON, b'{"ids": ["no such"], "all": true}'),
    (JSON, b'{"all": true, "limit": -1}'),
    (JSON, b'{"all": true}'),
    (JSON, b'{"ids": ["a", "a"]}'),
    (JSON, b"[" * 5_000),
    (JSON, b'{"id": "s", "text": "\\ud800"}'),
    (JSON, b'{"id": "s", "text": "x", "media_url": "http://127.0.0.1/a.wav"}'),
    (JSON, b'{"task_type": "embed_vectors", "payload": {"share_id": "s", "content": {"__type__": 1, "__value__": 2}}}'),
    (JSON, b" " * 3_000),
    (NDJSON, b"\xff\n{}\n"),
    ({"Content-Type": "text/plain"}, b"x"),
]


def references(part: object) -> set[str]:
    match part:
        case dict():
            own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
            return own.union(*(references(each) for each in part.values()))
        case list():
            return set().union(*(references(each) for each in part))
        case _:
            return set()


def test_every_reference_leads_somewhere() -> None:
    for reference in references(SCHEMA):
        found: Any = SCHEMA
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
        assert found


def test_errors_are_described_as_the_problems_that_they_are() -> None:
    assert "HTTPValidationError" not in json.dumps(SCHEMA)
    titles = {kind.status: kind.title for _, kind in TABLE}
    for _, path, operation in OPERATIONS:
        for status, answer in operation["responses"].items():
            if status[0] in "45" and not path.startswith("/api/ml/health"):
                assert list(answer["content"]) == ["application/problem+json"]
                assert titles[int(status)]
                assert answer["description"]


@pytest.mark.parametrize("headers_and_body", STRANGE, ids=range(len(STRANGE)))
async def test_whatever_is_sent_the_answer_is_one_that_the_description_lists(
    headers_and_body: tuple[dict[str, str], bytes],
) -> None:
    headers, body = headers_and_body
    async with http_bench(ml_max_body_bytes=2048) as b:
        for method, path, operation in OPERATIONS:
            place = path.replace("{task_id}", "a%20b").replace("{share_id}", "s")
            query = "?limit=x&offset=-1&unknown=1" if method == "get" and len(body) % 2 else ""
            answer = await b.client.request(method, place + query, content=body, headers=headers)
            assert str(answer.status_code) in operation["responses"], (method, path, answer.text)
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json"
                assert set(answer.json()) >= {"type", "title", "status", "detail"}
