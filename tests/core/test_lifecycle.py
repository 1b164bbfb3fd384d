"""The table of moves; and a whole life of many tasks through ledger, decision and spool, each in one place."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from depth import histories
from mlproducer.core.backoff import Backoff
from mlproducer.core.confirms import ConfirmLedger
from mlproducer.core.lifecycle import MOVES, IllegalMove, Move, advance
from mlproducer.core.retry import Dead, RetryPolicy, Settled, Wait, decide
from mlproducer.outcome import Outcome, Unsure, UnsureCause
from mlproducer.task import TaskState

POLICY = RetryPolicy(3, Backoff(1.0, 10.0, 0.3))


@pytest.mark.parametrize("state", TaskState)
@pytest.mark.parametrize("move", Move)
def test_each_move_is_in_the_table_or_raises(state: TaskState, move: Move) -> None:
    if (state, move) in MOVES:
        assert advance(state, move) is MOVES[state, move]
    else:
        with pytest.raises(IllegalMove, match=f"{state} cannot {move}"):
            advance(state, move)


def test_a_task_that_is_spooled_published_and_confirmed_ends_confirmed() -> None:
    state = TaskState.ACCEPTED
    for move in (Move.PUBLISH, Move.SPOOL, Move.PUBLISH, Move.CONFIRM):
        state = advance(state, move)
    assert state is TaskState.CONFIRMED


def test_nothing_leaves_confirmed() -> None:
    assert not [move for state, move in MOVES if state is TaskState.CONFIRMED]


def test_from_every_other_state_a_task_can_still_be_confirmed_so_none_is_lost() -> None:
    hopeful = {TaskState.CONFIRMED}
    for _ in TaskState:
        hopeful |= {state for (state, _), after in MOVES.items() if after in hopeful}
    assert hopeful == set(TaskState)


def test_only_a_person_brings_a_dead_or_expired_task_back() -> None:
    gone = {TaskState.DEAD, TaskState.EXPIRED}
    assert {move for state, move in MOVES if state in gone} == {Move.REPLAY}
    assert {state for state, move in MOVES if move is Move.REPLAY} == gone


class ManyTasks(RuleBasedStateMachine):
    """Accept, spool, drain, confirm, bury, replay, lose channels; late answers come from channels long gone.

    Three holders may have a task: the ledger of the channel, the spool, the dead letters. A confirmed one is in none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.states: dict[int, TaskState] = {}
        self.attempts: dict[int, int] = {}
        self.ledger: ConfirmLedger[int] = ConfirmLedger()
        self.last_tag = 0
        self.in_flight: dict[int, int] = {}  # task by tag, as the broker knows it
        self.retired: list[tuple[ConfirmLedger[int], int]] = []  # with the last tag
        self.spool: dict[int, tuple[float, Wait]] = {}
        self.dead: dict[int, Dead] = {}
        self.confirmed: list[int] = []

    def move(self, task: int, move: Move) -> None:
        self.states[task] = advance(self.states[task], move)

    def publish(self, task: int) -> None:
        self.move(task, Move.PUBLISH)
        self.last_tag = self.ledger.add(task, self.now + 5)
        self.in_flight[self.last_tag] = task

    def settle(self, settled: list[tuple[int, Outcome]]) -> None:
        for task, outcome in settled:
            decision = decide(
                outcome,
                attempts=self.attempts[task],
                policy=POLICY,
                now=self.now,
                rand=0.0,
                expires_at=100.0 if task % 4 == 0 else None,
            )
            match decision:
                case Settled():
                    self.move(task, Move.CONFIRM)
                    self.confirmed.append(task)
                case Wait(attempts=attempts):
                    self.move(task, Move.SPOOL)
                    self.attempts[task] = attempts
                    self.spool[task] = (self.now + decision.delay, decision)
                case Dead(reason=reason):
                    self.move(task, Move.EXPIRE if reason == "expired" else Move.BURY)
                    self.dead[task] = decision
        gone = {task for task, _ in settled}
        self.in_flight = {tag: task for tag, task in self.in_flight.items() if task not in gone}

    def retire(self) -> None:
        if self.last_tag:
            self.retired.append((self.ledger, self.last_tag))
        self.ledger, self.last_tag, self.in_flight = ConfirmLedger(), 0, {}

    @rule(directly=st.booleans(), count=st.integers(1, 5))
    def accept(self, directly: bool, count: int) -> None:  # noqa: FBT001  # drawn by Hypothesis
        for _ in range(count):
            task = len(self.states)
            self.states[task], self.attempts[task] = TaskState.ACCEPTED, 0
            if directly:
                self.publish(task)
            else:
                self.move(task, Move.SPOOL)
                self.spool[task] = (self.now, Wait(0.0, 0, "not_connected", "", alone=False))

    @rule(limit=st.integers(1, 5))
    def drain(self, limit: int) -> None:
        due = [task for task, (due_at, _) in self.spool.items() if due_at <= self.now]
        for task in due[:limit]:
            del self.spool[task]
            self.publish(task)

    @precondition(lambda self: self.in_flight)
    @rule(pick=st.integers(0), multiple=st.booleans(), nack=st.booleans(), back=st.booleans())
    def answer(self, pick: int, multiple: bool, nack: bool, back: bool) -> None:  # noqa: FBT001  # drawn
        tag = sorted(self.in_flight)[pick % len(self.in_flight)]
        if back:
            assert self.ledger.returned(tag, 312, "NO_ROUTE")
        self.settle((self.ledger.nack if nack else self.ledger.ack)(tag, multiple))

    @rule(seconds=st.integers(1, 20))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        expired = self.ledger.expire(self.now)
        if expired:  # a confirm timeout retires the channel; the rest of it goes the same way here
            rest = self.ledger.lose(Unsure(UnsureCause.CHANNEL_LOST))
            self.settle([*expired, *rest])
            self.retire()

    @rule(cause=st.sampled_from([UnsureCause.CONNECTION_LOST, UnsureCause.CHANNEL_REFUSED]))
    def lose(self, cause: UnsureCause) -> None:
        self.settle(self.ledger.lose(Unsure(cause)))
        self.retire()

    @precondition(lambda self: self.retired)
    @rule(multiple=st.booleans())
    def a_late_answer_comes(self, multiple: bool) -> None:  # noqa: FBT001  # drawn by Hypothesis
        ledger, last = self.retired[-1]
        assert ledger.ack(last, multiple) == []
        assert ledger.nack(last, multiple) == []

    @precondition(lambda self: self.dead)
    @rule()
    def replay(self) -> None:
        task, _ = self.dead.popitem()
        self.move(task, Move.REPLAY)
        self.attempts[task] = 0
        self.spool[task] = (self.now, Wait(0.0, 0, "replayed", "", alone=False))

    @invariant()
    def each_accepted_task_is_in_exactly_one_place(self) -> None:
        places = [*self.in_flight.values(), *self.spool, *self.dead, *self.confirmed]
        assert sorted(places) == list(self.states)

    @invariant()
    def the_state_of_each_task_says_where_it_is(self) -> None:
        expected = {
            **dict.fromkeys(self.in_flight.values(), TaskState.IN_FLIGHT),
            **dict.fromkeys(self.spool, TaskState.SPOOLED),
            **dict.fromkeys(self.confirmed, TaskState.CONFIRMED),
            **{
                task: TaskState.EXPIRED if dead.reason == "expired" else TaskState.DEAD
                for task, dead in self.dead.items()
            },
        }
        assert self.states == expected
        assert self.ledger.outstanding == len(self.in_flight)


TestEachAcceptedTaskIsInExactlyOnePlace = ManyTasks.TestCase
TestEachAcceptedTaskIsInExactlyOnePlace.settings = histories(40, 50)
