"""The table of `core.verdict`, row by row, and its properties on any facts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlproducer.core.facts import Facts, HeldRoute, LinkFacts, Room, SeenQueue
from mlproducer.core.verdict import (
    ALL,
    DRAIN_STILL,
    FILL_WARNS,
    OWN_FAULTS,
    SILENT,
    Cause,
    Code,
    Level,
    NewTasks,
    judge,
    unread,
)

WELL = Facts(link=LinkFacts(node="mq:5672"))
LOST = LinkFacts(connected=False, node="mq:5672", error="mq:5672: connection refused")
HELD = HeldRoute("ml.embed", "returned", 12.0, 3.0)
FULL = Room(tasks=10, fill=1.0)
C, N = Code, NewTasks

ROWS: list[tuple[Facts, Code, Level, NewTasks, str]] = [
    (Facts(accepting=False), C.NOT_ACCEPTING, Level.RED, N.REFUSED, "not started, or is stopping"),
    (Facts(room=Room(error="disk full")), C.SPOOL_FAILS, Level.RED, N.SOME_REFUSED, "disk full"),
    (Facts(link=LOST, room=Room(error="disk full")), C.SPOOL_FAILS, Level.RED, N.REFUSED, "disk full"),
    (Facts(link=LOST, room=FULL), C.SPOOL_FULL, Level.RED, N.REFUSED, "full: 100.0% of ML_SPOOL_MAX_TASKS"),
    (Facts(room=FULL), C.SPOOL_FULL, Level.AMBER, N.SOME_REFUSED, "what is not confirmed at once is refused"),
    (
        Facts(link=LOST, room=Room(fill=0.95, closed=True)),
        C.SPOOL_FULL,
        Level.RED,
        N.REFUSED,
        "takes nothing until it has room again: 95.0%",
    ),
    (Facts(refused=(("SpoolFull", ALL),), accepted=False), C.ALL_REFUSED, Level.RED, N.REFUSED, "SpoolFull 1.0/s"),
    (WELL_LOST := Facts(link=LOST), C.NOT_CONNECTED, Level.RED, N.KEPT, "not connected to mq:5672: connection refused"),
    (
        Facts(link=replace(LOST, exhausted=True, next_attempt=27.0)),
        C.NOT_CONNECTED,
        Level.RED,
        N.KEPT,
        "All reconnect attempts are spent: one try at each health check. Next attempt in 27 s",
    ),
    (Facts(link=LinkFacts(blocked=True, alarm="low on disk")), C.BLOCKED, Level.RED, N.KEPT, "alarm): low on disk"),
    (
        Facts(link=LinkFacts(breaker="open", failures=10, probe_in=9.0)),
        C.BREAKER_OPEN,
        Level.RED,
        N.KEPT,
        "open after 10 failures in a row; the next probe in 9 s",
    ),
    (Facts(link=replace(LOST, error="")), C.CONNECTING, Level.AMBER, N.KEPT, "mq:5672: connecting"),
    (Facts(link=LinkFacts(breaker="half_open")), C.BREAKER_PROBING, Level.AMBER, N.KEPT, "half-open"),
    (Facts(refused=(("NotInTime", 5),)), C.SOME_REFUSED, Level.AMBER, N.SOME_REFUSED, "NotInTime 0.5/s"),
    (Facts(blobs_error="no bucket"), C.BLOBS_FAIL, Level.AMBER, N.SOME_REFUSED, "no bucket"),
    (Facts(in_flight=66, silent=SILENT), C.SILENT, Level.AMBER, N.SOME_KEPT, "66 tasks are in flight"),
    (Facts(late=(("ml.embed", 12.0),)), C.ANSWERS_LATE, Level.AMBER, N.SOME_KEPT, "ml.embed: its confirms come late"),
    (Facts(routes=(HELD,)), C.ROUTE_HELD, Level.AMBER, N.SOME_KEPT, "ml.embed: returned for 12 s; held, the next"),
    (
        Facts(routes=(replace(HELD, probe_in=None),)),
        C.ROUTE_HELD,
        Level.AMBER,
        N.SOME_KEPT,
        "a probe is on its way",
    ),
    (
        Facts(routes=(replace(HELD, every=True),)),
        C.EXCHANGE_HELD,
        Level.RED,
        N.KEPT,
        "returned for 12 s; held",
    ),
    (
        Facts(room=FULL, routes=(replace(HELD, every=True),)),
        C.SPOOL_FULL,
        Level.RED,
        N.REFUSED,
        "and tasks cannot go to the broker",
    ),
    (
        Facts(routes=(replace(HELD, failing=True),)),
        C.ROUTE_FAILING,
        Level.AMBER,
        N.SOME_KEPT,
        "longer than ML_ROUTE_PATIENCE",
    ),
    (
        Facts(queues=(SeenQueue("ml.x", missing="it is not there"),)),
        C.QUEUE_MISSING,
        Level.AMBER,
        N.SOME_KEPT,
        "ml.x: it is not there",
    ),
    (
        Facts(drain_still=DRAIN_STILL + 6, drain_limit=5.0),
        C.DRAIN_STILL,
        Level.AMBER,
        N.CONFIRMED,
        "begun nothing for 36 s",
    ),
    (
        Facts(room=Room(fill=FILL_WARNS, full_in=600.0)),
        C.SPOOL_FILLS,
        Level.AMBER,
        N.CONFIRMED,
        "80.0% of ML_SPOOL_MAX_TASKS, full in 10 min",
    ),
    (
        Facts(queues=(SeenQueue("ml.embed", ready=2_000),)),
        C.UNREAD,
        Level.AMBER,
        N.CONFIRMED,
        "ml.embed: nobody reads it: its tasks (2,000 now)",
    ),
    (Facts(room=Room(dead=10_237)), C.DEAD, Level.AMBER, N.CONFIRMED, "10,237 dead letters"),
    (Facts(room=Room(tasks=1, late=0.5)), C.BACKLOG, Level.AMBER, N.CONFIRMED, "1 in the spool"),
    (Facts(clock_note="set back"), C.CLOCK, Level.AMBER, N.CONFIRMED, "set back"),
]


@pytest.mark.parametrize(("facts", "code", "level", "new_tasks", "words"), ROWS)
def test_each_row_of_the_table(facts: Facts, code: Code, level: Level, new_tasks: NewTasks, words: str) -> None:
    found = judge(facts)
    (cause,) = [each for each in found.causes if each.code is code]
    assert (cause.level, cause.new_tasks) == (level, new_tasks)
    assert words in cause.text
    assert cause.todo
    assert not any(letter.isdecimal() for letter in cause.title), "a title that counts would be read out every second"


def test_every_code_has_a_row() -> None:
    assert {code for _, code, _, _, _ in ROWS} == set(Code)


NOTHING: list[Facts] = [
    Facts(),
    Facts(room=Room(tasks=2)),  # they wait for their eta
    Facts(in_flight=66, silent=SILENT - 0.1),
    Facts(silent=60.0),
    Facts(queues=(SeenQueue("ml.embed", ready=2_000, consumers=1), SeenQueue("ml.other"))),
    Facts(refused=tuple((reason, 100) for reason in OWN_FAULTS)),
    Facts(refused=(("SpoolFull", 0),)),
    Facts(drain_still=DRAIN_STILL, drain_limit=5.0),
    Facts(room=Room(fill=0.79, full_in=1.0)),
]


@pytest.mark.parametrize("facts", NOTHING)
def test_what_is_well_is_green(facts: Facts) -> None:
    found = judge(facts)
    assert (found.level, found.new_tasks, found.causes, found.direct) == (Level.GREEN, N.CONFIRMED, (), True)
    assert found.title == "Tasks are getting through"
    assert found.promise == "New tasks are confirmed directly."


def test_one_waiting_task_does_not_hide_the_dead_ones() -> None:
    found = judge(Facts(room=Room(tasks=1, late=3.0, dead=10_237)))
    assert [cause.code for cause in found.causes] == [C.DEAD, C.BACKLOG]
    assert found.title == "Some tasks are dead"


def test_a_drain_that_stands_still_is_no_news_of_a_producer_that_does_not_run() -> None:
    still = Facts(accepting=False, drain_still=1e6)
    assert [cause.code for cause in judge(still).causes] == [C.NOT_ACCEPTING]


@pytest.mark.parametrize(
    ("facts", "needs_link", "ready"),
    [
        (WELL, True, True),
        (WELL_LOST, False, True),
        (WELL_LOST, True, False),
        (Facts(link=replace(LOST, exhausted=True)), False, False),
        (Facts(link=LOST, room=FULL), False, False),
        (Facts(room=FULL), False, True),
        (Facts(blobs_error="no bucket"), False, True),
        (Facts(room=Room(error="disk full")), False, False),
    ],
)
def test_an_orchestrator_sends_tasks_where_they_are_taken(facts: Facts, *, needs_link: bool, ready: bool) -> None:
    assert judge(facts).ready(facts.link, needs_link=needs_link) is ready


def test_a_queue_may_be_said_to_be_unread_before_there_is_anything_in_it() -> None:
    assert (
        unread(SeenQueue("ml.embed")).text == "ml.embed: nobody reads it: its tasks (0 now) wait until a worker starts"
    )


spans = st.floats(0, 1e6)
texts = st.sampled_from(["", "it is broken"])
reasons = st.sampled_from(["SpoolFull", "SpoolUnavailable", "NotInTime", "InvalidTask"])
some_facts = st.builds(
    Facts,
    accepting=st.booleans(),
    link=st.builds(
        LinkFacts,
        connected=st.booleans(),
        blocked=st.booleans(),
        error=texts,
        exhausted=st.booleans(),
        next_attempt=st.none() | spans,
        breaker=st.sampled_from(["closed", "open", "half_open"]),
        failures=st.integers(0, 20),
        probe_in=st.none() | spans,
    ),
    room=st.builds(
        Room,
        tasks=st.integers(0, 9),
        fill=st.floats(0, 3),
        full_in=st.none() | spans,
        closed=st.booleans(),
        error=texts,
        late=spans,
        dead=st.integers(0, 3),
    ),
    routes=st.lists(
        st.builds(HeldRoute, st.sampled_from("ab"), texts, spans, st.none() | spans, st.booleans(), st.booleans()),
        max_size=3,
    ).map(tuple),
    queues=st.lists(
        st.builds(SeenQueue, st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 2), texts), max_size=3
    ).map(tuple),
    refused=st.lists(st.tuples(reasons, st.integers(0, 30)), max_size=3).map(tuple),
    accepted=st.booleans(),
    in_flight=st.integers(0, 99),
    silent=spans,
    drain_still=spans,
    blobs_error=texts,
    clock_note=texts,
)


def refused_for_sure(facts: Facts) -> bool:
    """Told anew: a task that comes now is taken by the broker or by the spool, or by neither."""
    broker = facts.link.connected and not facts.link.blocked and facts.link.breaker == "closed"
    if any(route.every and not route.failing for route in facts.routes):
        broker = False
    spool = not facts.room.error and facts.room.fill < 1 and not facts.room.closed
    return not facts.accepting or not (broker or spool)


@given(some_facts)
def test_where_a_caller_is_refused_no_face_reads_accepted(facts: Facts) -> None:
    found = judge(facts)
    if refused_for_sure(facts):
        assert found.new_tasks is N.REFUSED
        assert found.level is Level.RED
        assert found.refuses
        assert not found.ready(facts.link, needs_link=False)
        assert "accepted" not in found.promise
    if any(count for reason, count in facts.refused if reason not in OWN_FAULTS):
        assert found.new_tasks >= N.SOME_REFUSED
        assert found.level is not Level.GREEN
    if found.refuses:
        assert "refused" in found.promise


@given(some_facts)
def test_what_is_green_for_one_face_is_green_for_all(facts: Facts) -> None:
    found = judge(facts)
    green = found.level is Level.GREEN
    assert green is (not found.causes)
    if green:
        assert found.new_tasks is N.CONFIRMED
        assert found.direct
        assert found.ready(facts.link, needs_link=True)
    if found.level is Level.RED:
        assert any(cause.level is Level.RED for cause in found.causes)
    if not found.direct:
        assert found.level is not Level.GREEN


def badness(cause: Cause) -> tuple[int, bool]:
    return cause.new_tasks, cause.level is Level.RED


@given(some_facts)
def test_the_worst_cause_comes_first_and_no_cause_hides_another(facts: Facts) -> None:
    found = judge(facts)
    worst = [badness(cause) for cause in found.causes]
    assert worst == sorted(worst, reverse=True)
    assert found.new_tasks == max((cause.new_tasks for cause in found.causes), default=N.CONFIRMED)
    # Each trouble alone has its causes; together they have all of them, but for what depends on the way to the broker.
    kinds = {cause.code for cause in found.causes}
    for part in (
        Facts(link=facts.link),
        Facts(room=facts.room),
        Facts(routes=facts.routes),
        Facts(queues=facts.queues),
        Facts(blobs_error=facts.blobs_error),
        Facts(clock_note=facts.clock_note),
    ):
        assert {cause.code for cause in judge(part).causes} <= kinds
    assert all(any(cause.about == route.key for cause in found.causes) for route in facts.routes)
    missing_or_unread = [queue for queue in facts.queues if queue.missing or (queue.ready and not queue.consumers)]
    assert all(any(cause.about == queue.name for cause in found.causes) for queue in missing_or_unread)
