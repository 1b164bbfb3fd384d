"""Any history of calls, on every store, against a model that is too simple to be wrong."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections import Counter
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import TypeVar, assert_never

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from msgspec.structs import replace

from depth import histories
from mlproducer.core.digest import content_digest
from mlproducer.ports import Spool
from mlproducer.rows import (
    Again,
    Attempted,
    Audit,
    Bury,
    DeadFilter,
    DeadLetter,
    Done,
    Known,
    Lease,
    NewRow,
    Record,
    SpoolRow,
    Verdict,
)
from mlproducer.spool.memory import MemorySpool
from mlproducer.spool.sql import PostgresSpool, SqliteSpool
from mlproducer.task import Flow
from mlproducer.testing.clock import ManualClock
from mlproducer.testing.spool_contract import StoreClock, claim, confirmed, dead_entry, entry, held, row, waits
from private_postgres import PrivatePostgres
from store_clocks import PostgresClock

T = TypeVar("T")

IDS = st.sampled_from([f"t{n}" for n in range(6)])
TIMES = st.integers(0, 9).map(float)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=3)
HISTORIES = st.lists(
    st.builds(Attempted, TIMES, st.sampled_from(["nacked", "returned"]), st.none() | st.just(312), TEXTS), max_size=2
).map(tuple)
VERDICTS = st.one_of(
    st.builds(Done, TIMES, TIMES),
    st.builds(
        Again, TIMES, st.integers(0, 3), st.sampled_from(["nacked", "returned"]), TEXTS, st.booleans(), HISTORIES
    ),
    st.builds(
        Bury, TIMES, st.integers(0, 3), st.sampled_from(["nacked", "returned"]), st.none(), st.just("why"), HISTORIES
    ),
)
TOKENS = st.sampled_from(["me", "you"])
FLOWS = (Flow("a"), Flow("a", "t"), Flow("a.b"), Flow("ml.embed", "u"))
SHARES = st.dictionaries(st.sampled_from(FLOWS), st.integers(0, 3))


class SpoolMachine(RuleBasedStateMachine):
    """The model: rows, dead letters, records, and for each held row its token and the end of its lease."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.rows: dict[str, SpoolRow] = {}
        self.letters: dict[str, DeadLetter] = {}
        self.records: dict[str, Record] = {}
        self.audits: list[Audit] = []
        self.held: dict[str, tuple[str, float]] = {}
        self.first_due: dict[str, float] = {}
        self.leases: list[Lease] = []
        self.clock = self.made_clock()
        self.spool: Spool = MemorySpool(self.clock) if isinstance(self.clock, ManualClock) else MemorySpool()
        self.now = 0.0

    def made_clock(self) -> StoreClock:
        """Of the store, at 0."""
        return ManualClock(0.0)

    def run(self, call: Awaitable[T]) -> T:
        async def wait() -> T:
            return await call

        return self.runner.run(wait())

    def known(self, task_id: str) -> Known | None:
        return self.rows.get(task_id) or self.letters.get(task_id) or self.records.get(task_id)

    def is_free(self, task_id: str) -> bool:
        """To be put: unknown, or no more than claimed."""
        known = self.known(task_id)
        return known is None or (isinstance(known, Record) and known.confirmed_at is None)

    def is_over(self, task_id: str) -> bool:
        """A claim that any other may take over."""
        known = self.known(task_id)
        return isinstance(known, Record) and known.held_until is not None and known.held_until <= self.now

    def free_at(self, task_id: str) -> float:
        return self.held[task_id][1] if task_id in self.held else self.rows[task_id].due_at

    @initialize()
    def opened(self) -> None:
        self.run(self.spool.open())

    @rule(
        task_id=IDS,
        delay=TIMES,
        eta=st.none() | TIMES,
        size=st.integers(0, 50),
        expires_at=st.none() | TIMES,
        history=HISTORIES,
        flow=st.sampled_from(FLOWS),
    )
    def put(
        self,
        task_id: str,
        delay: float,
        eta: float | None,
        size: int,
        expires_at: float | None,
        history: tuple[Attempted, ...],
        flow: Flow,
    ) -> None:
        new = row(task_id, delay=delay, eta=eta, size=size, history=history)
        new = replace(
            new, envelope=replace(new.envelope, expires_at=expires_at, routing_key=flow.route, tenant=flow.tenant)
        )
        is_new = self.is_free(task_id)
        assert self.run(self.spool.put(new)) is is_new
        if is_new:
            self.records.pop(task_id, None)
            self._waits(task_id, new)

    def _waits(self, task_id: str, new: NewRow) -> None:
        self.rows[task_id] = waits(new, at=self.now)
        self.first_due[task_id] = self.rows[task_id].due_at

    @rule(ids=st.lists(IDS, max_size=4), delay=TIMES)
    def put_together(self, ids: list[str], delay: float) -> None:
        async def all_at_once() -> list[bool]:
            return await asyncio.gather(*(self.spool.put(row(each, delay=delay)) for each in ids))

        stored = [each for each, new in zip(ids, self.run(all_at_once()), strict=True) if new]
        assert sorted(stored) == sorted({each for each in ids if self.is_free(each)})
        for each in stored:
            self.records.pop(each, None)
            self._waits(each, row(each, delay=delay))

    @rule(task_id=IDS, token=TOKENS, lasting=TIMES)
    def claim(self, task_id: str, token: str, lasting: float) -> None:
        mine, known = claim(task_id, token=token), self.known(task_id)
        over = self.is_over(task_id)
        assert self.run(self.spool.claim(mine, hold=lasting)) == (None if over else known)
        if over or known is None:
            self.records[task_id] = held(mine, until=self.now + lasting)

    @rule(ids=st.lists(IDS, min_size=2, max_size=5))
    def claim_together(self, ids: list[str]) -> None:
        """One of each id wins, if it was free; the others are told of it."""
        claims = [claim(each, token=f"c{n}") for n, each in enumerate(ids)]

        async def all_at_once() -> list[Known | None]:
            return await asyncio.gather(*(self.spool.claim(each, hold=9.0) for each in claims))

        answers = self.run(all_at_once())
        won = {
            mine.task_id: held(mine, until=self.now + 9.0)
            for mine, answer in zip(claims, answers, strict=True)
            if answer is None
        }
        assert len(won) == answers.count(None)
        assert won.keys() == {each for each in ids if self.known(each) is None or self.is_over(each)}
        self.records |= won
        assert all(answer in (None, self.known(mine.task_id)) for mine, answer in zip(claims, answers, strict=True))

    @rule(task_id=IDS, kept=TIMES)
    def confirm(self, task_id: str, kept: float) -> None:
        self.run(self.spool.confirm(claim(task_id), confirmed_at=self.now, keep=kept))
        if self.is_free(task_id):
            self.records[task_id] = confirmed(task_id, confirmed_at=self.now, keep_until=self.now + kept)

    @rule(task_id=IDS, token=TOKENS)
    def release(self, task_id: str, token: str) -> None:
        self.run(self.spool.release(task_id, token))
        known = self.known(task_id)
        if isinstance(known, Record) and known.confirmed_at is None and known.token == token:
            del self.records[task_id]

    @rule(limit=st.integers(0, 4))
    def forget(self, limit: int) -> None:
        over = {each.task_id for each in self.records.values() if each.keep_until <= self.now}
        assert self.run(self.spool.forget(limit=limit)) == min(limit, len(over))
        for each in over:
            if self.run(self.spool.find(each)) is None:  # which of them went is the store's choice
                del self.records[each]

    @rule(by=TIMES)
    def time_passes(self, by: float) -> None:
        self._advance(by / 4)

    def _advance(self, seconds: float) -> None:
        self.now += seconds
        self.clock.advance(seconds)

    @rule(limit=st.integers(0, 4), lasting=TIMES)
    def lease(self, limit: int, lasting: float) -> None:
        leases = list(self.run(self.spool.lease(limit, hold=lasting)))
        taken = [lease.row.envelope.task_id for lease in leases]
        free = sorted(self.free_at(each) for each in self.rows if self.free_at(each) <= self.now)
        # Which of equals is taken is the store's choice.
        assert sorted(self.free_at(each) for each in taken) == free[:limit]
        self._leased(leases, lasting)

    @rule(limit=st.integers(0, 4), lasting=TIMES, shares=SHARES)
    def lease_shares(self, limit: int, lasting: float, shares: dict[Flow, int]) -> None:
        leases = list(self.run(self.spool.lease(limit, hold=lasting, shares=shares)))
        taken = [lease.row.envelope.task_id for lease in leases]
        free = {
            flow: [at for at in sorted(map(self.free_at, self.of_flow(flow))) if at <= self.now][:share]
            for flow, share in shares.items()
        }
        turns = [(n, flow) for n in range(4) for flow, rows in free.items() if n < len(rows)]
        given = Counter(flow for _, flow in turns[:limit])
        assert Counter(self.rows[each].envelope.flow for each in taken) == given
        for flow, rows in free.items():
            ours = sorted(self.free_at(each) for each in taken if self.rows[each].envelope.flow == flow)
            assert ours == rows[: given[flow]]
        self._leased(leases, lasting)

    def of_flow(self, flow: Flow) -> list[str]:
        return [each for each, row in self.rows.items() if row.envelope.flow == flow]

    @rule(limit=st.integers(0, 4), lasting=TIMES)
    def lease_expired(self, limit: int, lasting: float) -> None:
        leases = list(self.run(self.spool.lease(limit, hold=lasting, expired=True)))
        expired = {
            task_id
            for task_id, each in self.rows.items()
            if each.envelope.expires_at is not None and each.envelope.expires_at <= self.now
            if task_id not in self.held or self.held[task_id][1] <= self.now
        }
        assert {lease.row.envelope.task_id for lease in leases} <= expired
        assert len(leases) == min(limit, len(expired))
        self._leased(leases, lasting)

    def _leased(self, leases: list[Lease], lasting: float) -> None:
        taken = [lease.row.envelope.task_id for lease in leases]
        assert [lease.row for lease in leases] == [self.rows[each] for each in taken]
        assert [lease.row.due_at for lease in leases] == sorted(lease.row.due_at for lease in leases)
        assert len(set(taken)) == len(taken)
        for lease in leases:
            self.held[lease.row.envelope.task_id] = (lease.token, self.now + lasting)
        self.leases += leases

    @rule(data=st.data(), verdicts=st.lists(VERDICTS, max_size=4))
    def settle(self, data: st.DataObject, verdicts: list[Verdict]) -> None:
        """Together, perhaps one lease twice, and also those that were lost or settled long ago."""
        if not self.leases:
            return
        batch = [(data.draw(st.sampled_from(self.leases[-8:])), verdict) for verdict in verdicts]
        answers = self.run(self.spool.settle(batch))
        for (lease, verdict), answer in zip(batch, answers, strict=True):
            task_id = lease.row.envelope.task_id
            ours = self.held.get(task_id, ("", 0.0))[0] == lease.token
            assert answer is ours
            if ours:
                del self.held[task_id]
                self._settled(task_id, self.rows[task_id], verdict)

    @rule()
    def one_dies(self) -> None:
        """What is rare by chance, and what replays and purges need."""
        self._advance(10.0)
        bury = Bury(self.now, 3, "nacked", 312, "why", (Attempted(self.now, "nacked"),))
        for lease in self.run(self.spool.lease(1, hold=10.0)):
            task_id = lease.row.envelope.task_id
            assert self.run(self.spool.settle([(lease, bury)])) == [True]
            self.held.pop(task_id, None)
            self._settled(task_id, self.rows[task_id], bury)

    def _settled(self, task_id: str, old: SpoolRow, verdict: Verdict) -> None:
        match verdict:
            case Done(confirmed_at=confirmed_at, keep=keep):
                del self.rows[task_id]
                digest = content_digest(old.envelope)
                self.records[task_id] = Record(
                    task_id, "embed_vectors", digest, old.accepted_at, self.now + keep, confirmed_at, old.attempts
                )
            case Again(delay, attempts, cause, text, alone, history):
                self.rows[task_id] = SpoolRow(
                    old.envelope, old.accepted_at, self.now + delay, attempts, cause, text, alone, history
                )
            case Bury(died_at, attempts, reason, code, text, history):
                del self.rows[task_id]
                self.letters[task_id] = DeadLetter(
                    old.envelope, old.accepted_at, died_at, attempts, reason, code, text, history
                )
            case _:
                assert_never(verdict)

    def _audited(self, ids: list[str], action: str) -> tuple[Audit, list[str]]:
        asked = Audit(self.now, "ada", action, "by id", tuple(ids))
        found = [each for each in dict.fromkeys(ids) if each in self.letters]
        if found:
            self.audits.insert(0, replace(asked, task_ids=tuple(found)))
        return asked, found

    @rule(ids=st.lists(IDS, min_size=1, max_size=6))
    def replay(self, ids: list[str]) -> None:
        audit, found = self._audited(ids, "replay")
        assert self.run(self.spool.replay(audit)) == len(found)
        for each in found:
            letter = self.letters.pop(each)
            self.rows[each] = SpoolRow(
                letter.envelope, letter.accepted_at, self.now, cause="replayed", history=letter.history
            )
            self.first_due[each] = self.now

    @rule(ids=st.lists(IDS, max_size=4))
    def purge(self, ids: list[str]) -> None:
        audit, found = self._audited(ids, "purge")
        assert self.run(self.spool.purge(audit)) == len(found)
        for each in found:
            del self.letters[each]

    @rule(
        reason=st.sampled_from([None, "nacked", "returned"]),
        older_than=st.none() | TIMES,
        newer_than=st.none() | TIMES,
        offset=st.integers(0, 2),
    )
    def dead(self, reason: str | None, older_than: float | None, newer_than: float | None, offset: int) -> None:
        where = DeadFilter(reason=reason, older_than=older_than, newer_than=newer_than)
        chosen = [
            letter
            for letter in self.letters.values()
            if reason is None or letter.reason == reason
            if older_than is None or letter.died_at < older_than
            if newer_than is None or letter.died_at >= newer_than
        ]
        chosen.sort(key=lambda letter: (-letter.died_at, letter.envelope.task_id))
        shown = [dead_entry(letter) for letter in chosen[offset : offset + 3]]
        assert list(self.run(self.spool.dead(where, limit=3, offset=offset))) == shown
        assert self.run(self.spool.count_dead(where)) == len(chosen)

    @invariant()
    def the_size_is_that_of_what_is_there(self) -> None:
        size = self.run(self.spool.measure())
        assert (size.tasks, size.dead) == (len(self.rows), len(self.letters))
        assert size.bytes == sum(each.envelope.size for each in self.rows.values())
        assert size.first_due_at == min((self.first_due[each] for each in self.rows), default=None)
        assert size.next_due_at == min(map(self.free_at, self.rows), default=None)

    @invariant()
    def the_flows_are_those_of_what_is_free(self) -> None:
        free = {row.envelope.flow for each, row in self.rows.items() if self.free_at(each) <= self.now}
        flows = list(self.run(self.spool.flows()))
        assert (set(flows), len(flows)) == (free, len(free))

    @invariant()
    def each_task_is_where_the_model_has_it(self) -> None:
        waiting = sorted(self.rows.values(), key=lambda each: (each.due_at, each.envelope.task_id))
        assert list(self.run(self.spool.waiting(limit=10))) == [entry(each) for each in waiting]
        ids = [f"t{n}" for n in range(6)]

        async def all_at_once() -> list[Known | None]:
            return await asyncio.gather(*(self.spool.find(each) for each in ids))

        assert self.run(all_at_once()) == [self.known(each) for each in ids]
        assert list(self.run(self.spool.audits(limit=3))) == self.audits[:3]

    def teardown(self) -> None:
        self.run(self.spool.close())
        self.runner.close()


class SqliteMachine(SpoolMachine):
    """Two share the file, and each call is of either. They may end at any point: rows stay, leases and claims end."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.instances: list[Spool] = []
        self.turns = itertools.count()
        self.reopened()

    @property
    def spool(self) -> Spool:
        return self.instances[next(self.turns) % 2]

    @spool.setter
    def spool(self, _: Spool) -> None:
        """The parent's own choice of a store."""

    @rule()
    def reopened(self) -> None:
        self.closed()
        assert isinstance(self.clock, ManualClock)
        self.instances = [SqliteSpool(Path(self.folder.name) / "s.db", clock=self.clock) for _ in range(2)]
        for each in self.instances:
            self.run(each.open())
        self.held.clear()
        self.records = {each.task_id: each for each in self.records.values() if each.confirmed_at is not None}

    def closed(self) -> None:
        for each in self.instances:
            self.run(each.close())

    def teardown(self) -> None:
        self.closed()
        self.runner.close()
        self.folder.cleanup()


class PostgresMachine(SpoolMachine):
    """Two instances share it, and each call is of either; both stay open from one history to the next."""

    clock: PostgresClock
    tables = "mlproducer_waiting, mlproducer_dead_letters, mlproducer_records, mlproducer_audits, mlproducer_totals"

    def __init__(self) -> None:
        super().__init__()
        self.instances = [PostgresSpool(self.clock.url), PostgresSpool(self.clock.url)]
        for instance in self.instances:
            self.run(instance.open())
        self.clock.sql(f"TRUNCATE {self.tables}")
        self.turns: Iterator[int] = iter(range(1_000_000))

    def made_clock(self) -> StoreClock:
        self.clock.set(0.0)
        return self.clock

    @property
    def spool(self) -> Spool:
        return self.instances[next(self.turns) % 2]

    @spool.setter
    def spool(self, _: Spool) -> None:
        """The parent's own choice of a store."""

    def teardown(self) -> None:
        for instance in self.instances:
            self.run(instance.close())
        self.runner.close()


TestMemoryMachine = SpoolMachine.TestCase
TestMemoryMachine.settings = histories(20, 40)
TestSqliteMachine = SqliteMachine.TestCase
TestSqliteMachine.settings = histories(4, 40)


def test_two_instances_on_one_postgresql_are_one_spool(
    postgres: PrivatePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PostgresMachine, "clock", PostgresClock(postgres), raising=False)
    run_state_machine_as_test(
        PostgresMachine,
        settings=histories(2, 30),
    )
