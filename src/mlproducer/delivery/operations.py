"""What people and tools ask of a running engine: status, health, receipts, the queues, reconnect, reset."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from mlproducer.core.replay import Chosen
from mlproducer.core.verdict import WINDOW
from mlproducer.delivery.assessor import Assessor
from mlproducer.delivery.checks import Checks
from mlproducer.delivery.drain import Drain
from mlproducer.delivery.gauges import Gauges
from mlproducer.delivery.guard import Guard
from mlproducer.delivery.link import LinkKeeper
from mlproducer.delivery.lookup import dead_letter, receipt_of, waiting_task
from mlproducer.delivery.receipts import ReceiptBook
from mlproducer.delivery.recent import LastConfirm
from mlproducer.delivery.replay import Replayer, Step
from mlproducer.errors import NotFound, SpoolUnavailable
from mlproducer.events import TasksReplayed
from mlproducer.ports import Clock, Listener, Spool
from mlproducer.rows import Audit, DeadEntry, DeadFilter, DeadLetter, SpoolRow, WaitingEntry
from mlproducer.status import Health, RefusedRate, Status
from mlproducer.task import Receipt, TaskState

_SURE: Final = frozenset({TaskState.ACCEPTED, TaskState.IN_FLIGHT, TaskState.CONFIRMED})
"""What this process knows of a task that nobody else can change."""


class Operations:
    """Reads the engine's parts; changes nothing but what an operator asks for. `ready_connected`: readiness needs a
    link (`ML_READY_WHEN`).
    """

    def __init__(
        self,
        *,
        spool: Spool,
        clock: Clock,
        tell: Listener,
        link: LinkKeeper,
        guard: Guard,
        assessor: Assessor,
        checks: Checks,
        gauges: Gauges,
        book: ReceiptBook,
        drain: Drain,
        last_confirm: LastConfirm,
        ready_connected: bool,
    ) -> None:
        self._spool = spool
        self._clock = clock
        self._tell = tell
        self._link = link
        self._guard = guard
        self._assessor = assessor
        self._checks = checks
        self._gauges = gauges
        self._book = book
        self._drain = drain
        self._last_confirm = last_confirm
        self._ready_connected = ready_connected
        self._replayer = Replayer(spool, clock)
        self._started = clock.monotonic()

    def now(self) -> float:
        return self._clock.now()

    def status(self) -> Status:
        facts, verdict = self._assessor.look()
        link, room, gauges = facts.link, facts.room, self._gauges
        return Status(
            accepting=facts.accepting,
            ready=verdict.ready(link, needs_link=self._ready_connected),
            reasons=tuple(cause.text for cause in verdict.causes),
            connection=self._link.state.value,
            node=link.node,
            blocked=link.blocked,
            alarm=link.alarm,
            last_error=link.error,
            reconnect_attempts=self._link.attempts,
            breaker=link.breaker,
            breaker_failures=link.failures,
            in_flight=facts.in_flight,
            spool_tasks=room.tasks,
            spool_bytes=room.bytes,
            spool_oldest_age=None if gauges.size.first_due_at is None else room.late,
            dead=room.dead,
            last_confirm_at=self._last_confirm.at,
            uptime=self._clock.monotonic() - self._started,
            level=verdict.level,
            new_tasks=verdict.new_tasks.name.lower(),
            title=verdict.title,
            promise=verdict.promise,
            causes=verdict.causes,
            next_attempt_in=link.next_attempt,
            breaker_probe_in=link.probe_in,
            spool_fill=room.fill,
            spool_limit=room.limit,
            spool_full_in=room.full_in,
            refused=tuple(RefusedRate(reason, count / WINDOW) for reason, count in facts.refused),
            routes=facts.routes,
            queues=facts.queues,
            traffic_note=facts.traffic_note,
        )

    def health(self) -> Health:
        """From what is known: costs the broker nothing, however often it is asked."""
        return self._checks.all(*self._assessor.look(), self._last_confirm.age())

    async def receipt(self, task_id: str) -> Receipt:
        """The latest state of a task. The memory knows what is under way here and what is confirmed, which nothing
        leaves. Anything else may have moved elsewhere (another instance, the command line), so the spool is asked.

        Raises: NotFound, if the task is in neither; SpoolUnavailable, if only the spool could tell.
        """
        known = self._book.find(task_id)
        if known is not None and known.state in _SURE:
            return known
        try:
            found = await self._spool.find(task_id)
        except SpoolUnavailable:
            if known is None:
                raise
            return known
        receipt = receipt_of(found, now=self._clock.now())
        if receipt is None:
            raise NotFound(
                f"no task {task_id} is known here: never accepted, removed from the dead letter queue, or confirmed "
                "too long ago to be remembered (ML_RECEIPTS_KEPT here, ML_RECEIPT_RETENTION in the spool)"
            )
        return receipt

    async def waiting(self, limit: int, offset: int) -> Sequence[WaitingEntry]:
        return await self._spool.waiting(limit=limit, offset=offset)

    async def waiting_task(self, task_id: str) -> SpoolRow:
        return await waiting_task(self._spool, task_id)

    async def dead_letters(self, where: DeadFilter, limit: int, offset: int) -> Sequence[DeadEntry]:
        return await self._spool.dead(where, limit=limit, offset=offset)

    async def dead_letter(self, task_id: str) -> DeadLetter:
        return await dead_letter(self._spool, task_id)

    async def audits(self, limit: int, offset: int) -> Sequence[Audit]:
        return await self._spool.audits(limit=limit, offset=offset)

    async def plan(self, chosen: Chosen) -> int:
        return await self._replayer.plan(chosen)

    def replay(self, chosen: Chosen, by: str, rate: float | None, limit: int | None) -> AsyncGenerator[Step, None]:
        """As `Replayer.replay`; the receipts here follow, and the drain is woken for each chunk."""
        return self._followed(self._replayer.replay(chosen, by=by, rate=rate, limit=limit))

    async def purge(self, chosen: Chosen, by: str, limit: int | None) -> int:
        done = 0
        async with aclosing(self._replayer.purge(chosen, by=by, limit=limit)) as steps:
            async for step in steps:
                done = step.done
                self._book.removed(step.task_ids)
        await self._gauges.measure(audits=True)
        return done

    async def _followed(self, steps: AsyncGenerator[Step, None]) -> AsyncGenerator[Step, None]:
        async with aclosing(steps):
            async for step in steps:
                if step.found:
                    self._book.replayed(await self._back(step))
                    self._drain.wake()
                    self._tell(TasksReplayed(step.found))
                yield step
        await self._gauges.measure()

    async def _back(self, step: Step) -> Sequence[str]:
        """Which ids of a chunk wait again. If some were no dead letters any more, somebody else was at them: look."""
        if step.found == len(step.task_ids):
            return step.task_ids
        return [task_id for task_id in step.task_ids if isinstance(await self._spool.find(task_id), SpoolRow)]

    def reconnect(self) -> None:
        self._link.reconnect()

    def reset_breaker(self) -> None:
        self._guard.reset()
        self._drain.wake()
