from __future__ import annotations

from mlproducer.telemetry.cells import Family
from mlproducer.telemetry.merging import Layout, Part, merge

COUNT = Family("count", "counter", "", ("kind",))
STATE = Family("state", "gauge", "", merge="pid")
FLIGHT = Family("flight", "gauge", "", merge="sum")
LATEST = Family("latest", "gauge", "", merge="max")
TIMES = Family("times", "histogram", "", (), (1.0, 5.0))

ALL = Layout(((COUNT, (("a",), ("b",))), (STATE, ((),)), (FLIGHT, ((),)), (LATEST, ((),)), (TIMES, ((),))))


def values(count: float, state: float) -> list[float]:
    return [count, 0, state, state, state, 1, 2, 3, 40]


def test_counts_add_up_and_gauges_do_as_they_are_told() -> None:
    merged = merge([Part(ALL, values(1, 7), "10"), Part(ALL, values(2, 3), "11"), Part(ALL, values(4, 99), None)])
    shown = {family.name: (family.labels, series) for family, series in merged.items()}
    assert shown == {
        "count": (("kind",), {("a",): [7], ("b",): [0]}),
        "state": (("pid",), {("10",): [7], ("11",): [3]}),
        "flight": ((), {(): [10]}),
        "latest": ((), {(): [7]}),
        "times": ((), {(): [3, 6, 9, 120]}),
    }


def test_another_versions_buckets_go_where_their_bound_belongs() -> None:
    other = Layout(((Family("times", "histogram", "", (), (0.5, 2.0, 9.0)), ((),)),))
    merged = merge([Part(ALL, values(0, 0), "10"), Part(other, [1, 10, 100, 1_000, 5], "11")])
    assert merged[TIMES] == {(): [1 + 1, 2 + 10, 3 + 100 + 1_000, 45]}


def test_a_family_that_two_programs_see_differently_is_the_first_ones() -> None:
    other = Layout(((Family("count", "gauge", ""), ((),)), (Family("new", "counter", ""), ((),))))
    merged = merge([Part(ALL, values(1, 0), "10"), Part(other, [50, 6], "11")])
    assert merged[COUNT] == {("a",): [1], ("b",): [0]}
    assert merged[Family("new", "counter", "")] == {(): [6]}
