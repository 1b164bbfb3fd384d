from __future__ import annotations

import pytest

from mlproducer.core.refusals import blamed_route, unquoted
from mlproducer.outcome import EVERY_ROUTE

WRITE = "ACCESS_REFUSED - write access to "
OLD = "ACCESS_REFUSED - access to "
END = " in vhost '/' refused for user 'ml'"


@pytest.mark.parametrize(
    ("code", "text", "route"),
    [
        (404, "NOT_FOUND - no exchange 'ml.tasks' in vhost '/'", EVERY_ROUTE),
        (404, "whatever another broker says", EVERY_ROUTE),
        (403, f"{OLD}exchange 'ml.tasks'{END}", EVERY_ROUTE),
        (403, f"{WRITE}exchange 'ml.tasks'{END}", EVERY_ROUTE),
        (403, f"{WRITE}exchange 'ml.tasks'{END}, backend rabbit_auth_backend_oauth2 returned an error", EVERY_ROUTE),
        (403, "ACCESS_REFUSED - cannot publish to internal exchange 'ml.tasks' in vhost '/'", EVERY_ROUTE),
        (403, f"{OLD}topic 'ml.embed' in exchange 'ml.tasks'{END}", "ml.embed"),
        (403, f"{WRITE}topic 'it's' in exchange 'ml.tasks'{END}", "it's"),
        (403, f"{WRITE}exchange 'another'{END}", None),
        (403, "ACCESS_REFUSED", None),
        (406, "PRECONDITION_FAILED - message size 17 is larger than configured max size 16", None),
        (406, "PRECONDITION_FAILED - exchange 'ml.tasks' ...", None),
        (541, "INTERNAL_ERROR", None),
    ],
)
def test_whom_the_broker_blames_is_read_from_its_words(code: int, text: str, route: str | None) -> None:
    assert blamed_route(code, text, "ml.tasks") == route


def test_the_names_that_a_broker_quotes_are_none_of_its_words() -> None:
    text = "inequivalent arg 'x-delivery-limit' for queue 'rate limit' in vhost '/'"
    assert unquoted(text) == "inequivalent arg  for queue  in vhost "
    assert "queue limit" in unquoted("cannot declare queue 'q': queue limit in vhost '/' (9) is reached")
