"""The earliest of many due times is the earliest, whatever came, changed and went before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlproducer.delivery.due import SPARE, DueTimes

TASKS = st.sampled_from("abcd")
CHANGES = st.lists(st.tuples(TASKS, st.none() | st.integers(0, 5).map(float)), max_size=60)


@given(CHANGES)
def test_the_earliest_is_that_of_what_waits_now(changes: list[tuple[str, float | None]]) -> None:
    due, truth = DueTimes(), dict[str, float]()
    for task_id, at in changes:
        if at is None:
            due.drop(task_id)
            truth.pop(task_id, None)
        else:
            due.add(task_id, at)
            truth[task_id] = at
        assert due.earliest() == min(truth.values(), default=None)
        assert len(due) == len(truth)


def test_times_of_tasks_that_wait_no_more_take_no_memory() -> None:
    due = DueTimes()
    for n in range(10_000):
        due.add(str(n % 10), float(n))
    assert len(due) == 10
    assert len(due._heap) <= 2 * 10 + SPARE
