from __future__ import annotations

import pytest

from mlproducer.core.quiet import AFTER, MANY, OTHERS, Hearing


def hearing() -> Hearing:
    """Of a route that answered at 10 s, when 5 attempts were confirmed."""
    one = Hearing()
    one.heard(10.0, 5)
    return one


def test_a_route_that_does_not_answer_while_others_pass_falls_quiet_once() -> None:
    one = hearing()
    assert one.listen(MANY, 10.0 + 2 * AFTER, 5 + OTHERS)
    assert one.quiet
    assert not one.listen(MANY, 10.0 + 3 * AFTER, 5 + 2 * OTHERS), "it is known"


@pytest.mark.parametrize(
    ("in_flight", "after", "others"),
    [(MANY - 1, 2 * AFTER, OTHERS), (MANY, AFTER / 2, OTHERS), (MANY, 2 * AFTER, OTHERS - 1)],
    ids=["few are on their way", "it had no time", "the others are as slow"],
)
def test_one_that_may_still_answer_is_not_quiet(in_flight: int, after: float, others: int) -> None:
    one = hearing()
    assert not one.listen(in_flight, 10.0 + after, 5 + others)
    assert not one.quiet


def test_whatever_comes_of_an_attempt_ends_it_and_the_count_begins_anew() -> None:
    one = hearing()
    one.listen(MANY, 11.0, 5 + OTHERS)
    one.heard(11.0, 5 + OTHERS)
    assert not one.quiet
    assert not one.listen(MANY, 12.0, 5 + 2 * OTHERS - 1)
    assert one.listen(MANY, 12.0, 5 + 2 * OTHERS)
