"""The drain: publish what is due from the spool, batch by batch, while the link is up.

Each batch is leased, published through the same window, breaker, routes and ledger as new tasks, and its verdicts are
committed in one transaction. Up to `LANES` batches overlap, so that the store works on one while the broker works on
another; `core.pacing` bounds how much that is. A crash between any two steps leaves the rows leased; when the lease
ends they are published again with the same task ids: at least once, never lost.

The routes that have something due share each batch by their weights, and the tenants of a route what it gets
(`core.sharing`): a million rows of one do not keep the ten of another waiting. A held route gives it nothing, or the
one row that probes it, which goes in a batch of its own. A batch whose answers are not all in after `SLOW_AFTER`
commits those that are and leaves its lane: a queue that confirms nothing keeps its own rows waiting, and no others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from msgspec import Struct

from mlproducer.core.pacing import Pace
from mlproducer.core.sharing import one_of_each_route
from mlproducer.delivery.attempts import Attempts
from mlproducer.delivery.copies import Copies
from mlproducer.delivery.guard import Guard
from mlproducer.delivery.late import LateAnswers
from mlproducer.delivery.route_watch import RouteWatch
from mlproducer.delivery.told import Told
from mlproducer.delivery.traces import BatchTrace, Tracer
from mlproducer.delivery.verdicts import NO_ATTEMPT, Verdicts
from mlproducer.errors import SpoolUnavailable
from mlproducer.events import BreakerState, PartFailed, TaskRetried
from mlproducer.jobs import Jobs, heard
from mlproducer.outcome import Confirmed, NotSent, NotSentCause, Outcome
from mlproducer.ports import Broker, Clock, Listener, Settle, Spool
from mlproducer.rows import Bury, Lease, Settlement, Verdict, put_back

LANES: Final = 3
"""Batches under way at once: one being leased, one at the broker, one being settled."""
SLOW_AFTER: Final = 0.5
"""Seconds that a batch waits for all of its answers before it goes on without those that are missing."""
HALF_OPEN: Final = 8
"""Rows at once while the breaker is half-open, and one at most of each route: see `core.breaker`."""
NO_ROOM_WAIT: Final = 0.05
"""Seconds until the next look when new tasks fill the window: nobody tells the drain when it has room again."""


@dataclass(frozen=True, slots=True)
class DrainTimes:
    """In seconds: how long a lease lasts, how long an idle drain sleeps."""

    lease: float
    poll: float


@dataclass(slots=True)
class _Batch:
    """Leases on their way, and the verdicts that are in."""

    leases: Sequence[Lease]
    until: float
    """When the leases end, on the monotonic clock."""
    done: asyncio.Future[None]
    settlements: list[Settlement] = field(default_factory=list)
    """What is in and not committed yet."""
    missing: int = field(init=False)
    answered: bool = True
    """The broker gave each its answer: none met an outage or a full window."""
    in_lane: bool = True

    def __post_init__(self) -> None:
        self.missing = len(self.leases)

    def settled(self, lease: Lease, verdict: Verdict) -> None:
        self.settlements.append((lease, verdict))
        self.missing -= 1
        # `done` only if this drain was cancelled: the rows stay leased, and are published again after that.
        if not self.missing and not self.done.done():
            self.done.set_result(None)

    async def done_within(self, seconds: float) -> bool:
        await asyncio.wait((self.done,), timeout=seconds)
        return self.done.done()

    def take(self) -> list[Settlement]:
        taken, self.settlements = self.settlements, []
        return taken

    def failed(self, error: Exception) -> None:
        self.answered = False
        if not self.done.done():
            self.done.set_exception(error)


class _Row(Struct, eq=False):
    """One row of a batch; it is its own settle callback, so that a row costs one object here."""

    batch: _Batch
    lease: Lease
    verdicts: Verdicts
    late: LateAnswers
    tell: Listener
    confirmed: bool = False
    """By the late answer to an earlier attempt: what this one comes to changes nothing."""

    def __call__(self, outcome: Outcome) -> None:
        try:
            if not self.confirmed:
                self._settled(outcome)
        except Exception as error:  # noqa: BLE001  # whatever it is, the batch would wait for this row for ever
            self.batch.failed(error)

    def confirmed_before(self) -> None:
        self.confirmed = True
        self.batch.settled(self.lease, self.verdicts.after(self.lease.row, Confirmed()))

    def _settled(self, outcome: Outcome) -> None:
        row = self.lease.row
        if type(outcome) is not Confirmed:
            self.late.ended(row, outcome)
        elif self.late:
            self.late.done(row.acceptance)
        attempted = not (isinstance(outcome, NotSent) and outcome.cause in NO_ATTEMPT)
        if not attempted:
            self.batch.answered = False
        self.batch.settled(self.lease, self.verdicts.after(row, outcome))
        if attempted:
            self.tell(TaskRetried(row.envelope.task_id, row.envelope.task_type, row.attempts + 1, row.cause))


class Drain:
    """One loop over the spool. `told` hears of each committed verdict."""

    def __init__(
        self,
        *,
        spool: Spool,
        broker: Broker,
        guard: Guard,
        routes: RouteWatch,
        attempts: Attempts,
        verdicts: Verdicts,
        copies: Copies,
        late: LateAnswers,
        pace: Pace,
        clock: Clock,
        tell: Listener,
        tracer: Tracer,
        told: Told,
        times: DrainTimes,
    ) -> None:
        self._spool = spool
        self._broker = broker
        self._guard = guard
        self._routes = routes
        self._attempts = attempts
        self._verdicts = verdicts
        self._copies = copies
        self._late = late
        self._pace = pace
        self._clock = clock
        self._tell = tell
        self._tracer = tracer
        self._told = told
        self._times = times
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        # What one of them raises leaves its rows leased: they are published again after that.
        self._jobs = Jobs(lambda error: tell(PartFailed("drain", error)))
        self._in_lanes = 0
        self._lane_left = asyncio.Event()
        self._sweep_at = 0.0
        self.dry = False
        """The last look found nothing due, none of ours was under way, and nothing was said to be due since."""
        self.held = ""
        """The last look found due rows of held routes only: which."""
        self._turned_at = clock.monotonic()

    @property
    def batches(self) -> int:
        """Under way."""
        return len(self._jobs)

    def still_for(self) -> float:
        """Seconds since the loop last began a turn. It does so at every poll; a turn may wait as long as a batch."""
        return self._clock.monotonic() - self._turned_at

    def closed_routes(self) -> str:
        """Which take nothing at present, and why."""
        return "; ".join(f"{held.key}: {held.reason}" for held in self._routes.closed())

    def wake(self) -> None:
        """Something may be due."""
        self.dry = False
        self._wake.set()

    def connected(self) -> None:
        """The link is up again: begin, slowly, and with a probe of each held route."""
        self._pace.restart()
        self._routes.hurry()
        self._wake.set()

    def stop(self) -> None:
        """Lease nothing more; `run` returns when the batches under way are settled."""
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._wake.clear()
                self._turned_at = self._clock.monotonic()
                try:
                    more = await self._sweep()
                    idle = await self._round()
                    idle = 0.0 if more else idle
                except SpoolUnavailable:
                    idle = self._times.poll
                if idle:
                    await self._sleep(idle)
            await self._jobs.ended()
        finally:
            self._jobs.cancel()
            await self._jobs.ended()

    async def _sleep(self, seconds: float) -> None:
        # The poll finds rows that another process put or replayed, and rows whose time has come.
        try:
            async with asyncio.timeout(min(seconds, self._times.poll)):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _round(self) -> float:
        """Start one batch. Returns how long to sleep: 0 if there may be more to do at once."""
        room, idle = self._room()
        if not room:
            return idle
        # Counted from before the store is asked, whose lease ends later than this then.
        until = self._clock.monotonic() + self._times.lease
        due = await self._spool.flows()
        planned = self._routes.plan(due, room, self._attempts.room())
        if self._guard.state() is BreakerState.HALF_OPEN:
            planned = one_of_each_route(planned, room)
        leases = await self._spool.lease(room, hold=self._times.lease, shares=planned) if planned else ()
        self._routes.leased(planned, (lease.row.envelope.flow for lease in leases))
        if not leases:
            # Race: a row is put and told while we look. The look may have come before it, so one more is due.
            self.dry = not due and not self._jobs and not self._wake.is_set()
            self.held = "" if planned or self._jobs else ", ".join(dict.fromkeys(flow.route for flow in due))
            return self._routes.wait(due) or self._times.poll
        self.held = ""
        for batch in self._batches(leases, until):
            await self._start(batch)
        return 0.0

    def _batches(self, leases: Sequence[Lease], until: float) -> list[_Batch]:
        """One, and one for each probe: it may take as long as the broker is given for an answer."""
        loop = asyncio.get_running_loop()
        probes = [lease for lease in leases if self._routes.probes(lease.row.envelope.routing_key)]
        others = [lease for lease in leases if lease not in probes] if probes else leases
        parts = [[probe] for probe in probes] + ([others] if others else [])
        return [_Batch(part, until, heard(loop.create_future())) for part in parts]

    def _room(self) -> tuple[int, float]:
        """How many rows may be leased now; if none, how long to sleep before the next look."""
        poll = self._times.poll
        if self._broker.obstacle is not None:
            return 0, poll
        match self._guard.state():
            case BreakerState.OPEN:
                return 0, poll
            case BreakerState.HALF_OPEN:
                return (0, poll) if self._jobs else (HALF_OPEN, 0.0)
            case BreakerState.CLOSED:
                pass
        now = self._clock.monotonic()
        room = min(self._pace.take(now), self._attempts.room())
        if not room:
            return 0, self._pace.wait(now) or NO_ROOM_WAIT
        return room, 0.0

    async def _start(self, batch: _Batch) -> None:
        self._pace.started(len(batch.leases))
        self._in_lanes += 1
        self._jobs.spawn(self._deliver(batch)).add_done_callback(partial(self._ended, batch))
        while self._in_lanes >= LANES:
            self._lane_left.clear()
            await self._lane_left.wait()

    def _ended(self, batch: _Batch, _job: object) -> None:
        # Here and not in the job: one that is cancelled before its first step would keep its room for ever.
        self._pace.ended(len(batch.leases), well=batch.answered and batch.done.done())
        self._leave_lane(batch)
        self._wake.set()

    def _leave_lane(self, batch: _Batch) -> None:
        if batch.in_lane:
            batch.in_lane = False
            self._in_lanes -= 1
            self._lane_left.set()

    async def _deliver(self, batch: _Batch) -> None:
        """Publish a batch and commit its verdicts."""
        trace = self._tracer.batch(batch.leases)
        try:
            await self._publish(batch, trace)
            if not await batch.done_within(SLOW_AFTER):
                await self._commit(batch)
                self._leave_lane(batch)
            await batch.done
            await self._commit(batch)
        finally:
            if trace is not None:
                trace.end()
        if not batch.answered:
            # The rows are due at once; the reason why the broker was not asked is not gone at once.
            await asyncio.sleep(min(NO_ROOM_WAIT, self._times.poll))

    async def _commit(self, batch: _Batch) -> None:
        """What is in so far."""
        settlements = batch.take()
        if settlements:
            await self._copies.publish(settlements, batch.until)
            await self._settle(settlements, batch.until)

    async def _publish(self, batch: _Batch, trace: BatchTrace | None) -> None:
        began = self._clock.monotonic()
        for lease in batch.leases:
            row = lease.row
            verdict = self._verdicts.before(row)
            if verdict is not None and not self._late.noted(row.acceptance):
                batch.settled(lease, verdict)
                continue
            deadline = began + self._attempts.wait_for(row.envelope.routing_key)
            # Race: the store was slow, and gave us rows whose leases are nearly over. Before the broker answered
            # another drain would publish them too, so they go back.
            late = deadline > batch.until
            waiting = _Row(batch, lease, self._verdicts, self._late, self._tell)
            settle: Settle = waiting if trace is None else trace.attempt(row, waiting)
            if late or (self._broker.paused and not await self._broker.writable(deadline)):
                settle(NotSent(NotSentCause.DEADLINE))
            elif self._late and not self._late.taken(row.acceptance, waiting):
                waiting.confirmed_before()  # between the lease and here, or while another held the row
            else:
                number = row.attempts + 1
                self._attempts.start(row.envelope, settle, deadline=deadline, alone=row.alone, attempt=number)

    async def _settle(self, settlements: Sequence[Settlement], until: float) -> None:
        """Commit what the broker said. If the store is away, try until the leases end: then another publishes the rows
        again, and until then each further try may spare their workers a duplicate.

        Race: the store commits and dies before it answers. The next try finds the rows gone, so nobody is told that
        they were confirmed; whoever asks for their receipts is.
        """
        held: Sequence[bool]
        while True:
            try:
                held = await self._spool.settle(settlements)
                break
            except SpoolUnavailable:
                if self._clock.monotonic() + self._times.poll >= until or self._stopping.is_set():
                    held = [False] * len(settlements)
                    break
                await asyncio.sleep(self._times.poll)
        for (lease, verdict), was_ours in zip(settlements, held, strict=True):
            if was_ours:
                self._told(lease.row, verdict)
            if self._late:
                self._late.written(put_back(lease.row, verdict))

    async def _sweep(self) -> bool:
        """Bury what expired while it waited, link or no link; once a poll, or at once again if there may be more."""
        now = self._clock.monotonic()
        if now < self._sweep_at or not self._copies.ready():
            return False
        self._sweep_at = now + self._times.poll
        leases = await self._spool.lease(1_000, hold=self._times.lease, expired=True)
        if not leases:
            return False
        until = now + self._times.lease
        settlements: list[Settlement] = [(lease, self._verdicts.expired(lease.row)) for lease in leases]
        await self._copies.publish(settlements, until)
        await self._settle(settlements, until)
        if not all(isinstance(verdict, Bury) for _, verdict in settlements):
            return False  # what is put off would be found again at once
        self._sweep_at = now
        return True
