"""A spool in memory. NOT durable: what it holds is gone with the process. For tests and for trying things out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from msgspec.structs import replace
from typing_extensions import TypeIs

from mlproducer.clock import SystemClock
from mlproducer.core.digest import content_digest
from mlproducer.ports import Clock
from mlproducer.rows import (
    LEASE_BYTES,
    Again,
    Audit,
    Bury,
    Claim,
    DeadEntry,
    DeadFilter,
    DeadLetter,
    Done,
    Known,
    Lease,
    NewRow,
    Record,
    Settlement,
    SpoolRow,
    SpoolSize,
    Verdict,
    WaitingEntry,
)
from mlproducer.spool.lone_time import LoneTime
from mlproducer.spool.memory_counts import MemoryCounters
from mlproducer.spool.turns import check_shares, in_turn, room_for
from mlproducer.task import Flow


@dataclass(slots=True)
class _Held:
    """A row; its `due_at` and `until` are of the store's time."""

    row: SpoolRow
    first_due_at: float
    token: str = ""
    until: float = 0.0

    @property
    def flow(self) -> Flow:
        return self.row.envelope.flow

    @property
    def size(self) -> int:
        return self.row.envelope.size

    @property
    def free_at(self) -> float:
        """When it may be leased next: when it is due, or when its lease ends."""
        return self.until if self.token else self.row.due_at

    def is_free(self, time: LoneTime, *, expired: bool) -> bool:
        """`expired`: it need not be due, but must not be held."""
        if not expired:
            return self.free_at <= time.now()
        expires_at = self.row.envelope.expires_at
        return expires_at is not None and expires_at <= time.utc() and (not self.token or self.until <= time.now())


class MemorySpool(MemoryCounters):
    """`ports.CountingSpool` over dicts; each call is whole, since none of them waits."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._time = LoneTime(clock or SystemClock())
        super().__init__(self._time.now)
        self._rows: dict[str, _Held] = {}
        self._dead: dict[str, DeadLetter] = {}
        self._records: dict[str, Record] = {}
        self._audits: list[Audit] = []
        self._tokens = itertools.count(1)

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close; the rows stay while the object does."""

    def watch(self, added: Callable[[], None]) -> None:
        """There are no others."""

    async def put(self, row: NewRow) -> bool:
        task_id = row.envelope.task_id
        known = self._known(task_id)
        if known is not None and not _is_claim(known):
            return False
        self._records.pop(task_id, None)
        self._wait(row, self._time.due(row.delay, row.envelope.eta))
        return True

    async def claim(self, claim: Claim, *, hold: float) -> Known | None:
        known = self._known(claim.task_id)
        now = self._time.now()
        if known is None or (_is_claim(known) and (known.held_until or 0.0) <= now):
            ends = now + hold
            self._records[claim.task_id] = Record(
                claim.task_id,
                claim.task_type,
                claim.digest,
                claim.accepted_at,
                ends,
                held_until=ends,
                token=claim.token,
            )
            return None
        return self._told(known)

    async def confirm(self, claim: Claim, *, confirmed_at: float, keep: float) -> None:
        known = self._known(claim.task_id)
        if known is None or _is_claim(known):
            keep_until = self._time.now() + keep
            self._records[claim.task_id] = Record(
                claim.task_id, claim.task_type, claim.digest, claim.accepted_at, keep_until, confirmed_at
            )

    async def release(self, task_id: str, token: str) -> None:
        known = self._records.get(task_id)
        if known is not None and _is_claim(known) and known.token == token:
            del self._records[task_id]

    async def flows(self) -> Sequence[Flow]:
        self._put_etas_right()
        return list({held.flow: None for held in self._free(expired=False)})

    async def lease(
        self, limit: int, *, hold: float, expired: bool = False, shares: Mapping[Flow, int] | None = None
    ) -> Sequence[Lease]:
        check_shares(shares, expired=expired)
        self._put_etas_right()
        until = self._time.now() + hold
        free = self._free(expired=expired)
        chosen = _oldest(free, limit) if shares is None else _oldest_of_each(free, limit, shares)
        leases: list[Lease] = []
        for held in sorted(chosen, key=lambda held: held.row.due_at):
            held.token, held.until = str(next(self._tokens)), until
            leases.append(Lease(self._shown(held.row), held.token))
        return leases

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        return [self._settle(lease, verdict) for lease, verdict in settlements]

    async def measure(self) -> SpoolSize:
        rows = [held.row for held in self._rows.values()]
        first_due = min((held.first_due_at for held in self._rows.values()), default=None)
        next_free = min((held.free_at for held in self._rows.values()), default=None)
        return SpoolSize(
            tasks=len(rows),
            bytes=sum(row.envelope.size for row in rows),
            first_due_at=None if first_due is None else self._time.told(first_due),
            dead=len(self._dead),
            next_due_at=None if next_free is None else self._time.told(next_free),
        )

    async def find(self, task_id: str) -> Known | None:
        known = self._known(task_id)
        return None if known is None else self._told(known)

    async def waiting(self, *, limit: int, offset: int = 0) -> Sequence[WaitingEntry]:
        rows = sorted((held.row for held in self._rows.values()), key=lambda row: (row.due_at, row.envelope.task_id))
        return [_waiting_entry(self._shown(row)) for row in rows[offset : offset + limit]]

    async def dead(self, where: DeadFilter, *, limit: int, offset: int = 0) -> Sequence[DeadEntry]:
        letters = sorted(self._matching(where), key=lambda letter: (-letter.died_at, letter.envelope.task_id))
        return [_dead_entry(letter) for letter in letters[offset : offset + limit]]

    async def count_dead(self, where: DeadFilter) -> int:
        return len(self._matching(where))

    async def replay(self, audit: Audit) -> int:
        found = self._take_dead(audit)
        for letter in found:
            again = NewRow(letter.envelope, letter.accepted_at, cause="replayed", history=letter.history)
            self._wait(again, self._time.now())
        return len(found)

    async def purge(self, audit: Audit) -> int:
        return len(self._take_dead(audit))

    async def audits(self, *, limit: int, offset: int = 0) -> Sequence[Audit]:
        return self._audits[::-1][offset : offset + limit]

    async def forget(self, *, limit: int) -> int:
        now = self._time.now()
        over = [record.task_id for record in self._records.values() if record.keep_until <= now][:limit]
        for task_id in over:
            del self._records[task_id]
        return len(over)

    def _known(self, task_id: str) -> Known | None:
        held = self._rows.get(task_id)
        if held is not None:
            return held.row
        return self._dead.get(task_id) or self._records.get(task_id)

    def _free(self, *, expired: bool) -> list[_Held]:
        free = [held for held in self._rows.values() if held.is_free(self._time, expired=expired)]
        return sorted(free, key=lambda held: held.free_at)

    def _wait(self, row: NewRow, due_at: float) -> None:
        self._rows[row.envelope.task_id] = _Held(row.waiting(due_at), due_at)

    def _put_etas_right(self) -> None:
        """If the wall clock was set: what waits for its eta waits until that has it. What was due stays so."""
        skew = self._time.step()
        if skew is None:
            return
        before = self._time.skew
        self._time.skew = skew
        for held in self._rows.values():
            eta, due_at = held.row.envelope.eta, held.row.due_at
            if eta is not None and due_at == eta - before and due_at > self._time.now():
                held.first_due_at = self._time.kept(eta)
                held.row = replace(held.row, due_at=held.first_due_at)

    def _shown(self, row: SpoolRow) -> SpoolRow:
        return replace(row, due_at=self._time.told(row.due_at)) if self._time.skew else row

    def _told(self, known: Known) -> Known:
        match known:
            case SpoolRow():
                return self._shown(known)
            case Record(keep_until=keep_until, held_until=held_until):
                ends = None if held_until is None else self._time.told(held_until)
                return replace(known, keep_until=self._time.told(keep_until), held_until=ends)
            case DeadLetter():
                return known
            case _:
                assert_never(known)

    def _settle(self, lease: Lease, verdict: Verdict) -> bool:
        task_id = lease.row.envelope.task_id
        held = self._rows.get(task_id)
        if held is None or held.token != lease.token:
            return False
        if not lease.token and held.row.accepted_at != lease.row.accepted_at:
            return False
        row = held.row
        match verdict:
            case Done(confirmed_at=confirmed_at, keep=keep):
                del self._rows[task_id]
                digest, kind = content_digest(row.envelope), row.envelope.task_type
                keep_until = self._time.now() + keep
                self._records[task_id] = Record(
                    task_id, kind, digest, row.accepted_at, keep_until, confirmed_at, row.attempts
                )
            case Again(delay, attempts, cause, text, alone, history):
                again = NewRow(row.envelope, row.accepted_at, delay, attempts, cause, text, alone, history)
                self._rows[task_id] = _Held(again.waiting(self._time.now() + delay), held.first_due_at)
            case Bury(died_at, attempts, reason, code, text, history):
                del self._rows[task_id]
                letter = DeadLetter(row.envelope, row.accepted_at, died_at, attempts, reason, code, text, history)
                self._dead[task_id] = letter
            case _:
                assert_never(verdict)
        return True

    def _matching(self, where: DeadFilter) -> list[DeadLetter]:
        return [letter for letter in self._dead.values() if _matches(letter, where)]

    def _take_dead(self, audit: Audit) -> list[DeadLetter]:
        found = tuple(task_id for task_id in dict.fromkeys(audit.task_ids) if task_id in self._dead)
        if found:
            self._audits.append(replace(audit, task_ids=found))
        return [self._dead.pop(task_id) for task_id in found]


def _oldest(free: Sequence[_Held], limit: int) -> list[_Held]:
    chosen: list[_Held] = []
    size = 0
    for held in sorted(free[:limit], key=lambda held: held.row.due_at):
        size += held.size
        if chosen and size > LEASE_BYTES:
            break
        chosen.append(held)
    return chosen


def _oldest_of_each(free: Sequence[_Held], limit: int, shares: Mapping[Flow, int]) -> list[_Held]:
    flows: dict[Flow, list[_Held]] = {flow: [] for flow in shares}
    for held in free:
        flow = held.flow
        if len(flows.get(flow, ())) < shares.get(flow, 0):
            flows[flow].append(held)
    found = list(flows.values())
    return in_turn(found, _size, room_for(found, _size, LEASE_BYTES))[:limit]


def _size(held: _Held) -> int:
    return held.size


def _is_claim(known: Known) -> TypeIs[Record]:
    return isinstance(known, Record) and known.confirmed_at is None


def _matches(letter: DeadLetter, where: DeadFilter) -> bool:
    return (
        (where.task_type is None or letter.envelope.task_type == where.task_type)
        and (where.reason is None or letter.reason == where.reason)
        and (where.older_than is None or letter.died_at < where.older_than)
        and (where.newer_than is None or letter.died_at >= where.newer_than)
        and (where.text is None or where.text.lower() in letter.text.lower())
    )


def _waiting_entry(row: SpoolRow) -> WaitingEntry:
    task = row.envelope
    return WaitingEntry(
        task.task_id,
        task.task_type,
        task.routing_key,
        task.size,
        row.accepted_at,
        row.due_at,
        row.attempts,
        row.cause,
        row.text,
        row.history,
    )


def _dead_entry(letter: DeadLetter) -> DeadEntry:
    task = letter.envelope
    return DeadEntry(
        task.task_id,
        task.task_type,
        task.routing_key,
        task.size,
        letter.accepted_at,
        letter.died_at,
        letter.attempts,
        letter.reason,
        letter.code,
        letter.text,
        letter.history,
    )
