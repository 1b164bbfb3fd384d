from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlproducer.core.digest import DIGEST_SIZE, content_digest
from mlproducer.core.history import HISTORY_KEPT, TEXT_KEPT, attempted, with_attempt
from mlproducer.outcome import Nacked, NotSent, NotSentCause, Returned, Unsure, UnsureCause
from mlproducer.rows import Attempted, History
from mlproducer.task import Envelope


def test_an_attempt_keeps_the_reply_code_where_there_is_one() -> None:
    assert attempted(Returned(312, "NO_ROUTE"), "returned", "why", at=5.0) == Attempted(5.0, "returned", 312, "why")
    refused = NotSent(NotSentCause.CHANNEL_REFUSED, 404, "no exchange")
    assert attempted(refused, "channel_refused", "no exchange", at=5.0).code == 404
    assert attempted(Nacked(), "nacked", "", at=5.0).code is None
    assert attempted(Unsure(UnsureCause.CONFIRM_TIMEOUT), "confirm_timeout", "", at=5.0).code is None


def test_a_long_error_is_cut_in_the_history() -> None:
    assert len(attempted(Nacked(), "nacked", "x" * 10_000, at=0.0).text) == TEXT_KEPT


@given(st.integers(0, 200))
def test_the_first_attempt_and_the_last_ones_stay(count: int) -> None:
    history: History = ()
    for n in range(count):
        history = with_attempt(history, Attempted(float(n), "nacked"))
    times = [attempt.at for attempt in history]
    assert len(times) == min(count, HISTORY_KEPT)
    if count:
        assert times[0] == 0.0
        assert times[1:] == [float(n) for n in range(max(1, count - HISTORY_KEPT + 1), count)]


def envelope(key: str, body: bytes, properties: bytes = b"") -> Envelope:
    return Envelope("id", "embed_vectors", key, properties, body)


def test_the_digest_is_of_route_and_body_and_of_nothing_else() -> None:
    assert content_digest(envelope("a", b"x", b"1")) == content_digest(envelope("a", b"x", b"2"))
    assert content_digest(envelope("a", b"x")) != content_digest(envelope("b", b"x"))
    assert content_digest(envelope("a", b"bx")) != content_digest(envelope("ab", b"x")), "the border counts"
    assert len(content_digest(envelope("a", b"x"))) == DIGEST_SIZE


def test_the_digest_is_the_same_in_every_version() -> None:
    # Stored for days and compared by other instances: a change of it would turn repeats into conflicts.
    assert content_digest(envelope("ml.embed", b"[[],{}]")).hex() == "92fb86b6732d37ae91be6302cf236f6f"
