from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlproducer.core.backoff import Backoff

RECONNECT = Backoff(first=0.5, cap=32.0, jitter=0.3)
SECONDS = st.floats(min_value=1e-3, max_value=1e6)
BACKOFFS = st.builds(Backoff, SECONDS, SECONDS, st.floats(0, 1))
RAND = st.floats(0, 1, exclude_max=True)


def test_reconnects_wait_half_a_second_doubling_to_thirty_two() -> None:
    delays = [RECONNECT.delay(attempt, rand=0.0) for attempt in range(1, 11)]
    assert delays == [0.5, 1, 2, 4, 8, 16, 32, 32, 32, 32]


def test_message_retries_wait_one_second_doubling_to_ten() -> None:
    assert [Backoff(1, 10, 0.3).delay(attempt, 0.0) for attempt in range(1, 6)] == [1, 2, 4, 8, 10]


def test_jitter_is_added_to_the_capped_delay_so_that_producers_at_the_cap_spread_out() -> None:
    assert RECONNECT.delay(50, rand=0.5) == pytest.approx(32 * 1.15)


@pytest.mark.parametrize("attempt", [0, -1])
def test_attempts_count_from_one(attempt: int) -> None:
    with pytest.raises(ValueError, match="count from 1"):
        RECONNECT.delay(attempt, 0.0)


def test_attempt_one_million_waits_the_cap() -> None:
    assert RECONNECT.delay(10**6, rand=0.0) == 32.0


@settings(deadline=None)
@given(BACKOFFS, st.integers(1, 10**9), RAND)
def test_every_delay_is_between_the_smaller_of_first_and_cap_and_the_cap_with_full_jitter(
    backoff: Backoff, attempt: int, rand: float
) -> None:
    delay = backoff.delay(attempt, rand)
    assert math.isfinite(delay)
    assert min(backoff.first, backoff.cap) <= delay <= backoff.cap * (1 + backoff.jitter)


@settings(deadline=None)
@given(BACKOFFS, st.integers(1, 2_000), st.integers(0, 2_000), RAND)
def test_a_later_attempt_never_waits_less(backoff: Backoff, attempt: int, more: int, rand: float) -> None:
    assert backoff.delay(attempt, rand) <= backoff.delay(attempt + more, rand)
