from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlproducer.errors import InvalidTask
from mlproducer.shares import Share, parse_share

EXAMPLES = Path(__file__).parents[2] / "examples" / "shares.ndjson"


@pytest.mark.parametrize("line", EXAMPLES.read_bytes().splitlines())
def test_every_example_is_a_share(line: bytes) -> None:
    assert parse_share(line) == parse_share(json.loads(line))


def test_a_share_is_taken_as_it_is() -> None:
    share = Share(id="s-1")
    assert parse_share(share) is share


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"{", None),
        (b"[]", None),
        (b'{"id": "a", "text": "\xff"}', None),
        ([], None),
        (None, None),
        ({}, "id"),
        ({"id": ""}, "id"),
        ({"id": "a" * 256}, "id"),
        ({"id": 7}, "id"),
        ({"id": "\ud800"}, "id"),
        ({"id": "a", "title": "x\udfff"}, "title"),
        ({"id": "a", "txt": "typo"}, "txt"),
        ({"id": "a", "text": None}, "text"),
        ({"id": "a", "media_url": "http://e.com/" + "a" * 8_192}, "media_url"),
        ({"id": "a", "options": {"sumarize": False}}, "options.sumarize"),
        ({"id": "a", "options": {"embed": "perhaps"}}, "options.embed"),
        ({"id": "a", "options": {"language": "x" * 36}}, "options.language"),
    ],
)
def test_a_fault_is_named_by_its_path(data: object, field: str | None) -> None:
    with pytest.raises(InvalidTask) as caught:
        parse_share(data)
    assert caught.value.field == field


def test_an_error_never_shows_the_content() -> None:
    with pytest.raises(InvalidTask) as caught:
        parse_share({"id": "a", "text": ["very private words"]})
    assert "private" not in str(caught.value)
