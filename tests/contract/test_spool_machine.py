"""Any history of calls, on every store, against a model that is too simple to be wrong."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mlproducer.ports import Again, Bury, DeadFilter, DeadLetter, Done, Lease, Spool, SpoolRow, Verdict
from mlproducer.spool.memory import MemorySpool
from mlproducer.spool.sql import SqliteSpool
from mlproducer.testing.spool_contract import row

T = TypeVar("T")

IDS = st.sampled_from([f"t{n}" for n in range(6)])
TIMES = st.integers(0, 9).map(float)
VERDICTS = st.one_of(
    st.just(Done()),
    st.builds(
        Again, TIMES, st.integers(0, 3), st.sampled_from(["nacked", "returned"]), st.text(max_size=3), st.booleans()
    ),
    st.builds(Bury, TIMES, st.integers(0, 3), st.sampled_from(["nacked", "returned"]), st.none(), st.just("why")),
)


class SpoolMachine(RuleBasedStateMachine):
    """The model: rows, dead letters, and for each held row its token and the end of its lease."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.rows: dict[str, SpoolRow] = {}
        self.letters: dict[str, DeadLetter] = {}
        self.held: dict[str, tuple[str, float]] = {}
        self.leases: list[Lease] = []
        self.now = 0.0
        self.spool: Spool = MemorySpool()

    def run(self, call: Awaitable[T]) -> T:
        async def wait() -> T:
            return await call

        return self.runner.run(wait())

    def free_at(self, task_id: str) -> float:
        return self.held[task_id][1] if task_id in self.held else self.rows[task_id].due_at

    @initialize()
    def opened(self) -> None:
        self.run(self.spool.open())

    @rule(task_id=IDS, due_at=TIMES, size=st.integers(0, 50))
    def put(self, task_id: str, due_at: float, size: int) -> None:
        new = row(task_id, due_at=due_at, size=size)
        is_new = task_id not in self.rows and task_id not in self.letters
        assert self.run(self.spool.put(new)) is is_new
        if is_new:
            self.rows[task_id] = new

    @rule(ids=st.lists(IDS, max_size=4), due_at=TIMES)
    def put_together(self, ids: list[str], due_at: float) -> None:
        async def all_at_once() -> list[bool]:
            return await asyncio.gather(*(self.spool.put(row(each, due_at=due_at)) for each in ids))

        stored = [each for each, new in zip(ids, self.run(all_at_once()), strict=True) if new]
        assert sorted(stored) == sorted({each for each in ids if each not in self.rows and each not in self.letters})
        self.rows |= {each: row(each, due_at=due_at) for each in stored}

    @rule(by=TIMES)
    def time_passes(self, by: float) -> None:
        self.now += by / 3

    @rule(limit=st.integers(0, 4), lasting=TIMES)
    def lease(self, limit: int, lasting: float) -> None:
        leases = list(self.run(self.spool.lease(limit, now=self.now, until=self.now + lasting)))
        taken = [lease.row.envelope.task_id for lease in leases]
        free = sorted(self.free_at(each) for each in self.rows if self.free_at(each) <= self.now)
        # Which of equals is taken is the store's choice.
        assert sorted(self.free_at(each) for each in taken) == free[:limit]
        assert [lease.row for lease in leases] == [self.rows[each] for each in taken]
        assert [lease.row.due_at for lease in leases] == sorted(lease.row.due_at for lease in leases)
        assert len(set(taken)) == len(taken)
        for lease in leases:
            self.held[lease.row.envelope.task_id] = (lease.token, self.now + lasting)
        self.leases += leases

    @rule(data=st.data(), verdict=VERDICTS)
    def settle(self, data: st.DataObject, verdict: Verdict) -> None:
        if not self.leases:
            return
        lease = data.draw(st.sampled_from(self.leases[-8:]))  # also those that were lost or settled long ago
        task_id = lease.row.envelope.task_id
        ours = self.held.get(task_id, ("", 0.0))[0] == lease.token
        assert self.run(self.spool.settle(lease, verdict)) is ours
        if ours:
            del self.held[task_id]
            self._settled(task_id, self.rows[task_id], verdict)

    @rule()
    def one_dies(self) -> None:
        """What is rare by chance, and what replays and purges need."""
        for lease in self.run(self.spool.lease(1, now=20.0, until=30.0)):
            task_id = lease.row.envelope.task_id
            assert self.run(self.spool.settle(lease, Bury(self.now, 3, "nacked", 312, "why")))
            self.held.pop(task_id, None)
            self._settled(task_id, self.rows[task_id], Bury(self.now, 3, "nacked", 312, "why"))

    def _settled(self, task_id: str, old: SpoolRow, verdict: Verdict) -> None:
        match verdict:
            case Done():
                del self.rows[task_id]
            case Again(due_at=due_at, attempts=attempts, cause=cause, text=text, alone=alone):
                self.rows[task_id] = replace(old, due_at=due_at, attempts=attempts, cause=cause, text=text, alone=alone)
            case Bury(died_at=died_at, attempts=attempts, reason=reason, code=code, text=text):
                del self.rows[task_id]
                self.letters[task_id] = DeadLetter(old.envelope, old.accepted_at, died_at, attempts, reason, code, text)

    @rule(ids=st.lists(IDS, min_size=1, max_size=6))
    def replay(self, ids: list[str]) -> None:
        found = [each for each in dict.fromkeys(ids) if each in self.letters]
        assert self.run(self.spool.replay(ids, now=self.now)) == len(found)
        for each in found:
            letter = self.letters.pop(each)
            self.rows[each] = SpoolRow(letter.envelope, letter.accepted_at, self.now, cause="replayed")

    @rule(ids=st.lists(IDS, max_size=4))
    def purge(self, ids: list[str]) -> None:
        found = [each for each in dict.fromkeys(ids) if each in self.letters]
        assert self.run(self.spool.purge(ids)) == len(found)
        for each in found:
            del self.letters[each]

    @rule(reason=st.sampled_from([None, "nacked", "returned"]), older_than=st.none() | TIMES, offset=st.integers(0, 2))
    def dead(self, reason: str | None, older_than: float | None, offset: int) -> None:
        where = DeadFilter(reason=reason, older_than=older_than)
        chosen = [
            letter
            for letter in self.letters.values()
            if (reason is None or letter.reason == reason) and (older_than is None or letter.died_at < older_than)
        ]
        chosen.sort(key=lambda letter: (-letter.died_at, letter.envelope.task_id))
        assert list(self.run(self.spool.dead(where, limit=3, offset=offset))) == chosen[offset : offset + 3]

    @invariant()
    def the_size_is_that_of_what_is_there(self) -> None:
        size = self.run(self.spool.measure())
        assert (size.tasks, size.dead) == (len(self.rows), len(self.letters))
        assert size.bytes == sum(each.envelope.size for each in self.rows.values())
        assert size.oldest_accepted_at == min((each.accepted_at for each in self.rows.values()), default=None)
        assert size.next_due_at == min(map(self.free_at, self.rows), default=None)

    @invariant()
    def each_task_is_where_the_model_has_it(self) -> None:
        waiting = sorted(self.rows.values(), key=lambda each: (each.due_at, each.envelope.task_id))
        assert list(self.run(self.spool.waiting(limit=10))) == waiting
        for n in range(6):
            expected = self.rows.get(f"t{n}") or self.letters.get(f"t{n}")
            assert self.run(self.spool.find(f"t{n}")) == expected

    def teardown(self) -> None:
        self.run(self.spool.close())
        self.runner.close()


class SqliteMachine(SpoolMachine):
    """It may be closed and opened at any point: rows stay, leases end."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.spool = SqliteSpool(Path(self.folder.name) / "s.db")

    @rule()
    def reopened(self) -> None:
        self.run(self.spool.close())
        self.spool = SqliteSpool(Path(self.folder.name) / "s.db")
        self.run(self.spool.open())
        self.held.clear()

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


TestMemoryMachine = SpoolMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSqliteMachine = SqliteMachine.TestCase
TestSqliteMachine.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
