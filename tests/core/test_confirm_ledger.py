from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from depth import histories
from mlproducer.core import confirms
from mlproducer.core.confirms import ConfirmLedger, ProtocolViolation
from mlproducer.outcome import Confirmed, LateAnswer, Nacked, Outcome, Returned, Unsure, UnsureCause

LOST = Unsure(UnsureCause.CONNECTION_LOST, "reset by peer")
NO_ROUTE = Returned(312, "NO_ROUTE")


def filled(count: int) -> ConfirmLedger[str]:
    """Tags 1 to `count`, entries "1" to "count", deadlines 1.0 to `count`."""
    ledger: ConfirmLedger[str] = ConfirmLedger()
    for n in range(1, count + 1):
        assert ledger.add(str(n), float(n)) == n
    return ledger


def names(settled: list[tuple[str, Outcome]]) -> list[str]:
    return [name for name, _ in settled]


def test_tags_count_from_one_as_the_broker_counts() -> None:
    assert [ConfirmLedger[str]().add("a", 1.0), filled(6).add("g", 1.0)] == [1, 7]


def test_the_next_tag_is_known_before_it_is_given() -> None:
    ledger: ConfirmLedger[str] = ConfirmLedger()
    for _ in range(3):
        told = ledger.next_tag
        assert ledger.add("x", 1.0) == told


def test_an_ack_settles_its_own_tag_only() -> None:
    ledger = filled(3)
    assert ledger.ack(2, multiple=False) == [("2", Confirmed())]
    assert ledger.outstanding == 2


def test_a_multiple_ack_settles_all_up_to_its_tag_in_order() -> None:
    ledger = filled(5)
    ledger.ack(2, multiple=False)
    assert names(ledger.ack(4, multiple=True)) == ["1", "3", "4"]
    assert names(ledger.ack(5, multiple=True)) == ["5"]


def test_tag_zero_with_multiple_settles_all_that_is_outstanding() -> None:
    assert names(filled(3).nack(0, multiple=True)) == ["1", "2", "3"]


def test_a_multiple_ack_on_an_empty_ledger_settles_nothing() -> None:
    assert ConfirmLedger[str]().ack(0, multiple=True) == []


def test_a_returned_message_is_settled_by_its_ack_as_returned() -> None:
    ledger = filled(3)
    assert ledger.returned(2, 312, "NO_ROUTE") is True
    assert ledger.outstanding == 3
    assert ledger.ack(3, multiple=True) == [("1", Confirmed()), ("2", NO_ROUTE), ("3", Confirmed())]


def test_a_nack_wins_over_a_return_because_the_broker_did_not_take_the_message() -> None:
    ledger = filled(1)
    ledger.returned(1, 312, "NO_ROUTE")
    assert ledger.nack(1, multiple=False) == [("1", Nacked())]


def test_a_return_for_a_settled_tag_marks_nothing() -> None:
    ledger = filled(2)
    ledger.ack(1, multiple=False)
    assert ledger.returned(1, 312, "NO_ROUTE") is False
    assert ledger.returned(99, 312, "NO_ROUTE") is False


def test_deadlines_need_not_rise_with_the_tags() -> None:
    ledger: ConfirmLedger[str] = ConfirmLedger(window=30.0)
    for name, deadline in (("slow", 9.0), ("quick", 2.0), ("middle", 5.0)):
        ledger.add(name, deadline)
    assert ledger.next_deadline() == 2.0
    assert names(ledger.expire(5.0)) == ["quick", "middle"]
    assert ledger.next_deadline() == 9.0


def test_an_expired_attempt_is_unsure_and_names_the_setting() -> None:
    ((_, outcome),) = filled(1).expire(1.0)
    assert isinstance(outcome, Unsure)
    assert outcome.cause is UnsureCause.CONFIRM_TIMEOUT
    assert "ML_CONFIRM_TIMEOUT" in outcome.text


def test_a_deadline_in_the_future_expires_nothing() -> None:
    assert filled(2).expire(0.5) == []


@pytest.mark.parametrize("multiple", [False, True])
def test_a_late_ack_settles_nothing(multiple: bool) -> None:  # noqa: FBT001  # the protocol's own flag
    ledger = filled(2)
    ledger.expire(1.0)
    ledger.ack(2, multiple=False)
    assert ledger.ack(1, multiple) == []
    assert ledger.nack(2, multiple) == []


def test_a_return_of_an_expired_attempt_does_not_mark_a_later_one() -> None:
    ledger = filled(1)
    ledger.returned(1, 312, "NO_ROUTE")
    ledger.expire(1.0)
    assert ledger.add("next", 9.0) == 2
    assert ledger.ack(2, multiple=True) == [("next", Confirmed())]


def test_a_lost_channel_settles_all_that_is_outstanding_once_and_late_acks_nothing() -> None:
    ledger = filled(3)
    ledger.returned(1, 312, "NO_ROUTE")
    ledger.ack(2, multiple=False)
    assert ledger.lose(LOST) == [("1", LOST), ("3", LOST)]
    assert ledger.lose(LOST) == []
    assert ledger.ack(3, multiple=True) == []
    assert ledger.next_deadline() is None
    assert ledger.expire(99.0) == []


@pytest.mark.parametrize(("tag", "multiple"), [(4, False), (4, True), (0, False), (10**12, True)])
@pytest.mark.parametrize("answer", [ConfirmLedger.ack, ConfirmLedger.nack])
def test_an_answer_for_a_tag_never_handed_out_raises_and_changes_nothing(
    answer: Callable[[ConfirmLedger[str], int, bool], object],
    tag: int,
    multiple: bool,  # noqa: FBT001  # the protocol's own flag
) -> None:
    ledger = filled(3)
    with pytest.raises(ProtocolViolation, match=str(tag)) as caught:
        answer(ledger, tag, multiple)
    assert caught.value.tag == tag
    assert names(ledger.ack(0, multiple=True)) == ["1", "2", "3"]


def test_one_slow_attempt_does_not_keep_the_deadlines_of_all_that_were_settled_behind_it() -> None:
    ledger: ConfirmLedger[str] = ConfirmLedger()
    ledger.add("slow", 1.0)
    for n in range(2, 20_000):
        ledger.add("quick", 300.0)
        ledger.ack(n, multiple=False)
    assert len(ledger._deadlines) < 2_000
    assert names(ledger.expire(300.0)) == ["slow"]


WAYS: dict[str, Callable[[ConfirmLedger[int]], object]] = {
    "ack": lambda ledger: ledger.ack(1, multiple=False),
    "ack of many": lambda ledger: ledger.ack(1, multiple=True),
    "nack": lambda ledger: ledger.nack(1, multiple=False),
    "nack of many": lambda ledger: ledger.nack(1, multiple=True),
    "expire": lambda ledger: ledger.expire(99.0),
    "lose": lambda ledger: ledger.lose(LOST),
}


@pytest.mark.parametrize("settle", WAYS.values(), ids=WAYS)
def test_however_a_returned_tag_is_settled_nothing_is_kept_of_it(
    settle: Callable[[ConfirmLedger[int]], object],
) -> None:
    ledger: ConfirmLedger[int] = ConfirmLedger()
    ledger.add(1, 5.0)
    assert ledger.returned(1, 312, "NO_ROUTE")
    assert settle(ledger)
    assert (ledger.outstanding, ledger._returned, ledger.next_deadline()) == (0, {}, None)


def late(settled: list[tuple[str, Outcome]]) -> LateAnswer:
    ((_, outcome),) = settled
    assert isinstance(outcome, Unsure)
    assert outcome.late is not None
    return outcome.late


def test_what_comes_late_is_told_of_its_own_attempt_once() -> None:
    ledger: ConfirmLedger[str] = ConfirmLedger(window=30.0)
    for n in range(1, 4):
        ledger.add(str(n), float(n))
    first, second = late(ledger.expire(1.0)), late(ledger.expire(2.0))
    assert [first.window, ledger.outstanding, ledger.late] == [30.0, 1, 2]
    assert ledger.returned(2, 312, "NO_ROUTE") is True
    ledger.ack(2, multiple=True)
    assert ledger.answered_late(2, multiple=True, taken=True) == [(first, Confirmed()), (second, NO_ROUTE)]
    assert ledger.answered_late(2, multiple=True, taken=True) == []
    assert ledger.late == 0


def test_a_late_nack_of_all_there_is() -> None:
    ledger: ConfirmLedger[str] = ConfirmLedger(window=30.0)
    ledger.add("1", 1.0)
    answer = late(ledger.expire(1.0))
    ledger.nack(0, multiple=True)
    assert ledger.answered_late(0, multiple=True, taken=False) == [(answer, Nacked())]


def test_who_is_not_answered_within_the_window_hears_that_nobody_knows() -> None:
    ledger: ConfirmLedger[str] = ConfirmLedger(window=30.0)
    ledger.add("1", 1.0)
    answer = late(ledger.expire(2.0))
    assert ledger.next_deadline() == 32.0
    assert ledger.give_up(31.9) == []
    ((heard, outcome),) = ledger.give_up(32.0)
    assert heard is answer
    assert isinstance(outcome, Unsure)
    assert outcome.late is None
    assert "ML_CONFIRM_CAP" in outcome.text
    ledger.ack(1, multiple=False)
    assert ledger.answered_late(1, multiple=False, taken=True) == []
    assert ledger.next_deadline() is None


def test_of_too_many_the_oldest_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirms, "MOST_LATE", 2)
    ledger: ConfirmLedger[str] = ConfirmLedger(window=30.0)
    for n in range(1, 5):
        ledger.add(str(n), float(n))
    answers = [outcome.late for _, outcome in ledger.expire(4.0) if isinstance(outcome, Unsure)]
    assert [answer for answer, _ in ledger.give_up(4.0)] == answers[:2]
    ledger.ack(4, multiple=True)
    assert [answer for answer, _ in ledger.answered_late(4, multiple=True, taken=True)] == answers[2:]


def test_an_answer_that_nobody_listens_for_yet_is_kept_for_who_will() -> None:
    answer, heard = LateAnswer(1.0), list[Outcome]()
    answer.tell(Nacked())
    answer.listen(heard.append)
    assert heard == [Nacked()]


class LedgerAgainstAPlainDict(RuleBasedStateMachine):
    """The model scans all tags where the ledger must not, and so shows what `multiple` means."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(confirms, "_SLACK", 2)  # so that a few steps are enough to sweep
        self.ledger: ConfirmLedger[int] = ConfirmLedger(window=3.0)
        self.late: dict[int, tuple[LateAnswer, float]] = {}
        self.heard: list[LateAnswer] = []
        self.deadlines: dict[int, float] = {}
        self.returned: dict[int, Returned] = {}
        self.settled: set[int] = set()
        self.last = 0
        self.now = 0.0

    def teardown(self) -> None:
        self.patch.undo()

    tags = st.runner().flatmap(lambda self: st.integers(0, self.last))

    def check(self, answer: list[tuple[int, Outcome]], expected: list[tuple[int, Outcome]]) -> None:
        assert answer == expected
        for tag, _ in expected:
            assert tag not in self.settled, "a tag settled twice"
            self.settled.add(tag)
            del self.deadlines[tag]
            if tag not in self.late:
                self.returned.pop(tag, None)

    def check_late(self, told: list[tuple[LateAnswer, Outcome]], expected: list[tuple[int, Outcome]]) -> None:
        assert told == [(self.late[tag][0], outcome) for tag, outcome in expected]
        for tag, _ in expected:
            answer, _ = self.late.pop(tag)
            assert answer not in self.heard, "told twice"
            self.heard.append(answer)
            self.returned.pop(tag, None)

    def up_to(self, tag: int, *, multiple: bool, late: bool = False) -> list[int]:
        tags = self.late if late else self.deadlines
        if multiple:
            return sorted(t for t in tags if tag in {0, t} or t < tag)
        return [tag] if tag in tags else []

    @rule(waits=st.lists(st.integers(-3, 6), min_size=1, max_size=5))
    def add(self, waits: list[int]) -> None:
        for wait in waits:
            self.last += 1
            assert self.ledger.add(self.last, self.now + wait) == self.last
            self.deadlines[self.last] = self.now + wait

    @rule(tag=tags)
    def return_it(self, tag: int) -> None:
        outstanding = tag in self.deadlines or tag in self.late
        assert self.ledger.returned(tag, 312, "NO_ROUTE") is outstanding
        if outstanding:
            self.returned[tag] = NO_ROUTE

    @rule(tag=tags, multiple=st.booleans())
    def ack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001  # drawn by Hypothesis
        multiple = multiple or tag == 0
        expected: list[tuple[int, Outcome]] = [
            (t, self.returned.get(t, Confirmed())) for t in self.up_to(tag, multiple=multiple)
        ]
        late: list[tuple[int, Outcome]] = [
            (t, self.returned.get(t, Confirmed())) for t in self.up_to(tag, multiple=multiple, late=True)
        ]
        self.check(self.ledger.ack(tag, multiple), expected)
        self.check_late(self.ledger.answered_late(tag, multiple, taken=True), late)

    @rule(tag=tags, multiple=st.booleans())
    def nack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001  # drawn by Hypothesis
        multiple = multiple or tag == 0
        late: list[tuple[int, Outcome]] = [(t, Nacked()) for t in self.up_to(tag, multiple=multiple, late=True)]
        self.check(self.ledger.nack(tag, multiple), [(t, Nacked()) for t in self.up_to(tag, multiple=multiple)])
        self.check_late(self.ledger.answered_late(tag, multiple, taken=False), late)

    @rule(beyond=st.integers(1, 5), multiple=st.booleans())
    def violate(self, beyond: int, multiple: bool) -> None:  # noqa: FBT001  # drawn by Hypothesis
        with pytest.raises(ProtocolViolation):
            self.ledger.ack(self.last + beyond, multiple)

    @rule(passed=st.integers(0, 4))
    def expire(self, passed: int) -> None:
        self.now += passed
        due = sorted((deadline, tag) for tag, deadline in self.deadlines.items() if deadline <= self.now)
        answer = self.ledger.expire(self.now)
        assert all(isinstance(o, Unsure) and o.cause is UnsureCause.CONFIRM_TIMEOUT for _, o in answer)
        for tag, outcome in answer:
            assert isinstance(outcome, Unsure)
            assert outcome.late is not None
            self.late[tag] = (outcome.late, self.now + 3.0)
        self.check(answer, [(tag, answer[0][1]) for _, tag in due])

    @rule()
    def give_up(self) -> None:
        over = [tag for tag, (_, until) in self.late.items() if until <= self.now]
        told = self.ledger.give_up(self.now)
        assert all(isinstance(outcome, Unsure) and outcome.late is None for _, outcome in told)
        self.check_late(told, [(tag, told[0][1]) for tag in over])

    @precondition(lambda self: self.last > 5)
    @rule()
    def lose(self) -> None:
        self.check(self.ledger.lose(LOST), [(tag, LOST) for tag in sorted(self.deadlines)])
        self.check_late(self.ledger.lose_late(LOST), [(tag, LOST) for tag in self.late])
        assert not self.ledger._deadlines

    @invariant()
    def every_tag_is_outstanding_or_settled_and_never_both(self) -> None:
        assert self.ledger.outstanding == len(self.deadlines)
        assert self.ledger.late == len(self.late)
        assert self.settled.isdisjoint(self.deadlines)
        assert len(self.settled) + len(self.deadlines) == self.last

    @invariant()
    def nothing_is_kept_of_what_is_settled(self) -> None:
        assert self.ledger._returned == self.returned

    @rule()
    def ask_for_the_next_deadline(self) -> None:
        moments = [*self.deadlines.values(), *(until for _, until in self.late.values())]
        assert self.ledger.next_deadline() == min(moments, default=None)


TestTheLedgerAgreesWithAPlainDict = LedgerAgainstAPlainDict.TestCase
TestTheLedgerAgreesWithAPlainDict.settings = histories(50, 60)
