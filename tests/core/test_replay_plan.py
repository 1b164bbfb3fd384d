"""What a replay takes next, and how long it waits, without a spool or a clock."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlproducer.core.replay import CHUNK, Cursor, as_of, chunk_of, in_words, rest
from mlproducer.rows import DeadEntry, DeadFilter

RATES = st.floats(0.01, 1e5)


def entry(died_at: float, task_id: str) -> DeadEntry:
    return DeadEntry(task_id, "embed_vectors", "ml.embed", 10, 0.0, died_at, 3, "nacked", None, "")


@given(left=st.integers(0, 10**6), rate=st.none() | RATES)
def test_a_chunk_is_at_most_what_is_left_and_one_seconds_worth(left: int, rate: float | None) -> None:
    count = chunk_of(left, rate)
    assert 0 <= count <= min(left, CHUNK)
    assert count > 0 or left == 0
    assert rate is None or count <= max(1, rate)


@settings(deadline=None)
@given(rate=RATES, spent=st.lists(st.floats(0, 30), min_size=1, max_size=40), late=st.lists(st.floats(0, 5)))
def test_however_long_chunks_and_waits_take_no_window_of_time_sees_more_than_the_rate_and_one_chunk(
    rate: float, spent: list[float], late: list[float]
) -> None:
    now, taken = 0.0, []
    for n, seconds in enumerate(spent):
        count = chunk_of(10**9, rate)
        taken.append((now, count))
        now += seconds
        now += rest(count, seconds, rate) + (late[n] if n < len(late) else 0.0)
    for first, (start, _) in enumerate(taken):
        for last in range(first, len(taken)):
            window = taken[last][0] - start
            count = sum(each for _, each in taken[first : last + 1])
            assert count <= (rate * window + taken[last][1]) * (1 + 1e-6)


def test_a_chunk_that_took_its_time_is_followed_at_once_and_nothing_is_made_up_for() -> None:
    assert rest(100, 0.25, 100.0) == 0.75
    assert rest(100, 60.0, 100.0) == 0.0
    assert rest(500, 0.0, None) == 0.0


@given(st.none() | st.floats(0, 2e9), st.floats(0, 2e9))
def test_only_what_died_before_the_start_is_ever_read(given_bound: float | None, now: float) -> None:
    bound = as_of(DeadFilter(reason="nacked", older_than=given_bound), now).older_than
    assert bound == min(now, math.inf if given_bound is None else given_bound)


@given(
    moments=st.lists(st.sampled_from([1.0, 2.0, 3.0]), max_size=25),
    stuck=st.sets(st.integers(0, 24)),
    size=st.integers(1, 6),
)
def test_pages_reach_every_dead_letter_once_also_where_some_cannot_be_taken(
    moments: list[float], stuck: set[int], size: int
) -> None:
    there = sorted((entry(at, f"t{n:02}") for n, at in enumerate(moments)), key=lambda e: (-e.died_at, e.task_id))
    stays = {f"t{n:02}" for n in stuck}
    expected = [each.task_id for each in there]
    cursor = Cursor(DeadFilter(older_than=9.0, newer_than=0.5))
    taken: list[str] = []
    for _ in range(200):
        assert cursor.where.newer_than == 0.5
        assert cursor.where.older_than is not None
        listed = [each for each in there if each.died_at < cursor.where.older_than]
        page = listed[cursor.offset : cursor.offset + size]
        if not page:
            break
        fresh = cursor.fresh(page)
        taken += fresh
        there = [each for each in there if each.task_id not in fresh or each.task_id in stays]
    assert taken == expected


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (["a", "b"], "by id"),
        (DeadFilter(), "all"),
        (DeadFilter("embed_vectors", "nacked", text="it's"), "type 'embed_vectors', reason 'nacked', text \"it's\""),
        (DeadFilter(older_than=1_700_000_000.5), "died before 2023-11-14T22:13:20+00:00"),
        (DeadFilter(reason="nacked", newer_than=0.0), "reason 'nacked', died since 1970-01-01T00:00:00+00:00"),
    ],
)
def test_an_audit_says_in_words_what_was_chosen(chosen: list[str] | DeadFilter, words: str) -> None:
    assert in_words(chosen) == words
