from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from depth import histories
from mlproducer.core import confirm_waits, late
from mlproducer.core.confirm_waits import ConfirmWaits
from mlproducer.core.confirms import ConfirmLedger
from mlproducer.core.late import Confirm, LateBook, Place, Settle
from mlproducer.events import ConfirmWaitChanged
from mlproducer.outcome import Confirmed, Nacked, Outcome, Unsure, UnsureCause

PASS = Confirmed()
FAULT = Nacked()
LOST = Unsure(UnsureCause.CONNECTION_LOST)
Book = LateBook[str, str]


def waiting(*, attempts: int = 1) -> Book:
    """The row of task t waits, and so many attempts of it may be answered."""
    book = Book()
    for _ in range(attempts):
        book.opened("t")
    assert book.written("t", "row") is None
    return book


@pytest.mark.parametrize("outcome", [PASS, FAULT, LOST])
def test_a_row_that_waits_is_settled_by_what_its_attempt_came_to(outcome: Outcome) -> None:
    book = waiting()
    assert book.answered("t", outcome) == Settle("row", outcome)
    book.settled("t")
    assert not len(book)


@pytest.mark.parametrize("outcome", [PASS, FAULT])
def test_an_answer_that_comes_while_the_row_is_written_waits_for_it(outcome: Outcome) -> None:
    book = Book()
    book.opened("t")
    assert book.answered("t", outcome) is None
    assert book.written("t", "row") == Settle("row", outcome)


def test_a_pass_whose_row_our_own_drain_holds_keeps_it_from_being_written() -> None:
    book = waiting()
    book.answered("t", PASS)
    book.elsewhere("t", PASS)
    assert book.noted("t")
    assert book.taken("t", "flight") is False
    assert not len(book)


def test_a_fault_whose_row_somebody_holds_is_forgotten() -> None:
    book = waiting()
    book.answered("t", FAULT)
    book.elsewhere("t", FAULT)
    assert not len(book)
    assert book.taken("t", "flight") is True


def test_the_attempt_under_way_is_confirmed_by_the_late_ack_of_the_one_before() -> None:
    book = waiting()
    assert book.taken("t", "flight") is True
    assert book.answered("t", PASS) == Confirm("flight")
    assert not len(book)
    assert book.answered("t", PASS) is None, "what comes after it changes nothing"


def test_a_late_fault_of_the_attempt_before_the_one_under_way_says_nothing() -> None:
    book = waiting()
    book.taken("t", "flight")
    assert book.answered("t", FAULT) is None
    book.ended("t")
    assert not len(book)


def test_an_attempt_that_ends_leaves_the_one_before_open() -> None:
    book = waiting()
    book.taken("t", "flight")
    book.ended("t")
    assert book.written("t", "row 2") is None
    assert book.answered("t", PASS) == Settle("row 2", PASS)


def test_a_fault_counts_only_if_no_other_attempt_may_have_landed() -> None:
    book = waiting(attempts=2)
    assert book.answered("t", FAULT) is None
    assert book.answered("t", PASS) == Settle("row", PASS)
    book.elsewhere("t", PASS)
    book.opened("t")
    assert book.answered("t", FAULT) is None, "it was confirmed before"
    assert book.noted("t")


def test_the_end_of_a_call_whose_row_is_another_s_forgets_it() -> None:
    book = Book()
    book.opened("t")
    book.settled("t")
    assert book.written("t", "row") is None
    assert not book.open


def test_an_answer_to_one_acceptance_of_an_id_is_nothing_to_another_of_the_same_id() -> None:
    book, first, second = Book(), ("t", 1.0), ("t", 2.0)
    book.opened(first)
    book.written(first, "row 1")
    book.opened(second)
    book.written(second, "row 2")
    assert book.answered(first, PASS) == Settle("row 1", PASS), "which its store does not find any more"
    book.elsewhere(first, PASS)
    assert [book.noted(first), book.noted(second)] == [True, False]
    assert book.taken(second, "flight") is True
    book.ended(second)
    assert book.written(second, "row 2") is None
    assert book.answered(second, FAULT) == Settle("row 2", FAULT), "no other attempt of it is open"


def test_of_too_many_tasks_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "MOST", 2)
    book = Book()
    for task_id in "abc":
        book.opened(task_id)
    assert len(book) == 2
    assert book.answered("a", PASS) is None


def test_what_nobody_opened_is_nobody_s() -> None:
    book = Book()
    assert book.answered("t", PASS) is None
    book.ended("t")
    book.elsewhere("t", FAULT)
    assert book.noted("t") is False


class Races(RuleBasedStateMachine):
    """One task, its row in a store, our drain, another process, and answers in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.book = Book()
        self.holder = "call"
        """Who has the row: the call that writes it, nobody, our drain, another process; or it is done."""
        self.open = 1
        self.acked = False
        self.landed = 1
        """Copies that were written."""
        self.flying = False
        self.asked: list[Settle[str]] = []
        self.told = 0
        self.book.opened("t")

    def act(self, step: Settle[str] | Confirm[str] | None) -> None:
        if isinstance(step, Settle):
            self.asked.append(step)
        elif step is not None:
            assert self.flying, "only what is under way can be confirmed"
            self.flying = False
            self.done()

    def done(self) -> None:
        assert self.holder in {"nobody", "ours", "another"}
        self.holder = "done"
        self.told += 1

    @rule()
    def row_is_written(self) -> None:
        if self.holder == "call":
            self.holder = "nobody"
            self.act(self.book.written("t", "row"))

    @rule(outcome=st.sampled_from([PASS, FAULT, LOST]))
    def answer(self, outcome: Outcome) -> None:
        if self.open:
            self.open -= 1
            self.acked = self.acked or outcome == PASS
            self.act(self.book.answered("t", outcome))

    @rule()
    def store_settles(self) -> None:
        if self.asked:
            step = self.asked.pop(0)
            if self.holder != "nobody":
                self.book.elsewhere("t", step.outcome)
                return
            self.book.settled("t")
            if step.outcome == PASS:
                self.done()

    @rule()
    def drain_leases(self) -> None:
        if self.holder == "nobody":
            self.holder = "ours"

    @rule()
    def drain_writes(self) -> None:
        if self.holder == "ours" and not self.flying:
            if self.book.taken("t", "flight"):
                assert not (self.acked and not self.asked and self.book.noted("t"))
                self.landed += 1
                self.flying = True
            else:
                assert self.acked
                self.done()

    @rule(outcome=st.sampled_from(["confirmed", "failed", "late"]))
    def drain_hears(self, outcome: str) -> None:
        if not self.flying:
            return
        self.flying = False
        if outcome == "confirmed":
            self.book.settled("t")
            self.done()
            return
        if outcome == "late":
            self.book.opened("t")
            self.open += 1
        else:
            self.book.ended("t")
        self.holder = "call"

    @rule()
    def another_process(self) -> None:
        if self.holder == "nobody":
            self.holder = "another"
        elif self.holder == "another":
            self.holder = "nobody"

    @invariant()
    def nothing_is_told_twice(self) -> None:
        assert self.told <= 1

    @invariant()
    def the_book_ends(self) -> None:
        if self.holder in {"nobody", "done"} and not self.open and not self.acked and not self.asked:
            assert not len(self.book)

    def teardown(self) -> None:
        """Whatever came before, a task that was acked comes to be known as confirmed, without another copy."""
        self.row_is_written()
        while self.asked:
            self.store_settles()
        if self.holder == "another":
            self.holder = "nobody"
        if not self.acked or self.holder == "done" or self.flying:
            return
        landed = self.landed
        self.drain_leases()
        self.drain_writes()
        if self.landed == landed:
            assert self.holder == "done"


TestRaces = Races.TestCase
TestRaces.settings = histories(100, 40)


# The wait


def test_a_route_that_is_in_time_is_waited_for_as_the_setting_says() -> None:
    waits = ConfirmWaits(5.0, 30.0)
    assert waits.of("r") == waits.longest == 5.0
    assert waits.calm
    assert waits.answered("r", 4.0) == ()


def test_the_first_late_answer_raises_the_wait_of_its_route_alone() -> None:
    waits = ConfirmWaits(5.0, 60.0)
    assert waits.answered_late("r", 7.0) == (ConfirmWaitChanged("r", 21.0, late=True),)
    assert waits.answered_late("r", 7.0) == ()
    assert [waits.of("r") > 7.0, waits.of("other"), waits.calm] == [True, 5.0, False]
    assert waits.late_routes() == {"r": waits.longest}


@given(st.lists(st.floats(5.0, 1_000.0), min_size=1, max_size=50), st.floats(1.0, 100.0))
def test_the_wait_stays_between_the_setting_and_the_cap(times: list[float], cap: float) -> None:
    waits = ConfirmWaits(5.0, cap)
    for seconds in times:
        waits.answered_late("r", seconds)
        assert 5.0 <= waits.of("r") <= max(5.0, cap)


@given(st.floats(1.01, 6.0))
def test_under_constant_lateness_within_the_cap_the_wait_is_long_enough_from_the_first_answer_on(times: float) -> None:
    waits = ConfirmWaits(5.0, 60.0)
    waits.answered_late("r", 5.0 * times)
    for _ in range(200):
        if waits.calm:
            break
        assert waits.of("r") >= 5.0 * times
        waits.answered("r", 5.0 * times)


@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=20))
def test_an_answer_sooner_than_expected_never_makes_the_wait_longer(times: list[float]) -> None:
    waits = ConfirmWaits(5.0, 1_000.0)
    waits.answered_late("r", 7.0)
    for seconds in times:
        before, smoothed = waits.of("r"), waits._late["r"].smoothed
        waits.answered("r", min(seconds, smoothed))
        assert waits.of("r") <= before
        if waits.calm:
            break


def test_a_broker_that_is_quick_again_is_waited_for_as_before() -> None:
    waits = ConfirmWaits(5.0, 30.0)
    waits.answered_late("r", 15.0)
    told = [change for _ in range(60) for change in waits.answered("r", 0.01)]
    assert told == [ConfirmWaitChanged("r", 5.0, late=False)]
    assert waits.calm


def test_of_too_many_late_routes_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirm_waits, "MOST_ROUTES", 2)
    waits = ConfirmWaits(5.0, 30.0)
    for route in "abc":
        waits.answered_late(route, 7.0)
    assert list(waits.late_routes()) == ["b", "c"]


# Duplicates


@dataclass
class Simulation:
    """A broker that answers each publish after `latency` seconds, one channel, a window, a cap. Each task is published
    once directly, and from then on as the core says: when its row is due.
    """

    latency: list[float]
    cap: float
    usual: float = 1.0
    ledger: ConfirmLedger[int] = field(init=False)
    copies: dict[int, int] = field(default_factory=dict)
    confirmed: set[int] = field(default_factory=set)
    agenda: list[tuple[float, int, str, int]] = field(default_factory=list)
    order: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.ledger = ConfirmLedger(self.cap)
        self.waits = ConfirmWaits(self.usual, self.cap)
        self.began: dict[int, float] = {}
        self.task: dict[int, int] = {}
        self.book: LateBook[int, int] = LateBook()

    def at(self, moment: float, what: str, number: int) -> None:
        heapq.heappush(self.agenda, (moment, next(self.order), what, number))

    def run(self, tasks: int, every: float) -> None:
        for n in range(tasks):
            self.at(n * every, "publish", n)
        for _ in range(100_000):
            if not self.agenda:
                return
            now, _, what, number = heapq.heappop(self.agenda)
            getattr(self, what)(now, number)
        raise AssertionError("a loop of copies")

    def publish(self, now: float, task: int) -> None:
        if task in self.confirmed:
            return
        if not self.book.taken(str(task), 0):
            self.confirmed.add(task)
            return
        self.copies[task] = self.copies.get(task, 0) + 1
        wait = self.waits.of("r")
        tag = self.ledger.add(task, now + wait)
        self.task[tag], self.began[tag] = task, now
        self.at(now + self.latency[tag % len(self.latency)], "ack", tag)
        self.at(now + wait, "tick", 0)

    def tick(self, now: float, _: int) -> None:
        self.ledger.give_up(now)
        for task, outcome in self.ledger.expire(now):
            assert isinstance(outcome, Unsure)
            assert outcome.late is not None
            self.book.opened(str(task))
            self.book.written(str(task), task)
            outcome.late.listen(partial(self.late, task))
            self.at(now + outcome.late.window, "publish", task)

    def late(self, task: int, outcome: Outcome) -> None:
        step = self.book.answered(str(task), outcome)
        if step is not None and outcome == PASS:
            self.confirmed.add(task)
            self.book.settled(str(task))

    def ack(self, now: float, tag: int) -> None:
        duration = now - self.began[tag]
        for task, _ in self.ledger.ack(tag, multiple=False):
            self.confirmed.add(task)
            self.book.settled(str(task))
            self.waits.answered("r", duration)
        for answer, outcome in self.ledger.answered_late(tag, multiple=False, taken=True):
            self.waits.answered_late("r", duration)
            answer.tell(outcome)


@pytest.mark.parametrize("times", [1.4, 2.0, 3.0, 6.0])
def test_under_constant_lateness_no_task_is_copied_and_each_is_known_as_confirmed(times: float) -> None:
    simulation = Simulation([times], cap=6.0)
    simulation.run(50, every=0.1)
    assert simulation.confirmed == set(range(50))
    assert set(simulation.copies.values()) == {1}


@given(st.lists(st.floats(0.001, 11.9), min_size=1, max_size=8), st.floats(0.0, 2.0))
def test_whatever_the_lateness_within_the_bounds_a_task_has_at_most_one_copy_too_many(
    latency: list[float], every: float
) -> None:
    """Within the bounds: the usual wait and the time that is listened for after it, here 1 s and 12 s."""
    simulation = Simulation(latency, cap=12.0)
    simulation.run(20, every)
    assert simulation.confirmed == set(range(20))
    assert max(simulation.copies.values()) <= 2


def test_every_place_is_met_here() -> None:
    assert {place.name for place in Place} == {"WRITING", "WAITING", "FLYING"}
