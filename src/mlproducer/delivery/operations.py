"""What people and tools ask of a running engine: status, health, receipts, the queues, reconnect, reset."""

from __future__ import annotations

from collections.abc import Sequence

from mlproducer.core.supervisor import SupervisorState
from mlproducer.delivery.drain import Drain
from mlproducer.delivery.guard import Guard
from mlproducer.delivery.health import Gauges, HealthCheck
from mlproducer.delivery.link import LinkKeeper
from mlproducer.delivery.pipeline import Pipeline
from mlproducer.delivery.receipts import ReceiptBook
from mlproducer.errors import NotFound
from mlproducer.events import BreakerState, Event, TaskConfirmed, TasksReplayed
from mlproducer.ports import Broker, Clock, DeadFilter, DeadLetter, Listener, Spool, SpoolRow
from mlproducer.status import Check, CheckStatus, Health, Status
from mlproducer.task import Receipt, TaskState


class LastConfirm:
    """A listener that remembers when a task was last confirmed (Unix seconds)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.at: float | None = None

    def __call__(self, event: Event) -> None:
        if type(event) is TaskConfirmed:
            self.at = self._clock.now()


class Operations:
    """Reads the engine's parts; changes nothing but what an operator asks for."""

    def __init__(
        self,
        *,
        broker: Broker,
        spool: Spool,
        clock: Clock,
        tell: Listener,
        link: LinkKeeper,
        guard: Guard,
        health: HealthCheck,
        gauges: Gauges,
        book: ReceiptBook,
        drain: Drain,
        pipeline: Pipeline,
        last_confirm: LastConfirm,
    ) -> None:
        self._broker = broker
        self._spool = spool
        self._clock = clock
        self._tell = tell
        self._link = link
        self._guard = guard
        self._health = health
        self._gauges = gauges
        self._book = book
        self._drain = drain
        self._pipeline = pipeline
        self._last_confirm = last_confirm
        self._started = clock.monotonic()

    def status(self) -> Status:
        view = self._broker.view()
        gauges = self._gauges
        oldest = gauges.size.oldest_accepted_at
        accepting = self._pipeline.accepting
        exhausted = self._link.state is SupervisorState.EXHAUSTED
        return Status(
            accepting=accepting,
            # Design §3: readiness is false once the reconnect attempts are exhausted, so that an orchestrator
            # prefers an instance with a broker; tasks that come all the same are still spooled.
            ready=accepting and not gauges.spool_error and not exhausted,
            reasons=tuple(self._reasons()),
            connection=self._link.state.value,
            node=view.node,
            blocked=view.blocked,
            last_error=self._link.last_error,
            reconnect_attempts=self._link.attempts,
            breaker=self._guard.state().name.lower(),
            breaker_failures=self._guard.failures,
            in_flight=view.in_flight,
            spool_tasks=gauges.spooled_tasks,
            spool_bytes=gauges.spooled_bytes,
            spool_oldest_age=None if oldest is None else max(0.0, self._clock.now() - oldest),
            dead=gauges.size.dead,
            last_confirm_at=self._last_confirm.at,
            uptime=self._clock.monotonic() - self._started,
        )

    def health(self) -> Health:
        """From what is known: costs the broker nothing, however often it is asked."""
        return Health((self._link_check(), self._breaker_check(), self._spool_check(), self._dead_check()))

    async def receipt(self, task_id: str) -> Receipt:
        """The latest state of a task: from memory if recent, else from the spool.

        Raises: NotFound, if the task is in neither: never accepted here, or confirmed too long ago to be kept.
        """
        known = self._book.find(task_id)
        if known is not None:
            return known
        found = await self._spool.find(task_id)
        next_at: float | None = None
        match found:
            case SpoolRow():
                state, reason, next_at = TaskState.SPOOLED, found.text or found.cause, found.due_at
            case DeadLetter():
                state = TaskState.EXPIRED if found.reason == "expired" else TaskState.DEAD
                reason = found.text or found.reason
            case None:
                raise NotFound(f"no task {task_id} is known here (ML_RECEIPTS_KEPT bounds how many are remembered)")
        envelope = found.envelope
        return Receipt(task_id, envelope.task_type, state, found.accepted_at, None, found.attempts, reason, next_at)

    async def waiting(self, limit: int, offset: int) -> Sequence[SpoolRow]:
        return await self._spool.waiting(limit=limit, offset=offset)

    async def dead_letters(self, where: DeadFilter, limit: int, offset: int) -> Sequence[DeadLetter]:
        return await self._spool.dead(where, limit=limit, offset=offset)

    async def dead_letter(self, task_id: str) -> DeadLetter:
        """Raises: NotFound."""
        found = await self._spool.find(task_id)
        if not isinstance(found, DeadLetter):
            raise NotFound(f"no dead letter {task_id}")
        return found

    async def replay(self, task_ids: Sequence[str]) -> int:
        count = await self._spool.replay(task_ids, now=self._clock.now())
        self._book.replayed(task_ids)
        self._tell(TasksReplayed(count))
        await self._gauges.measure()
        self._drain.wake()
        return count

    async def purge(self, task_ids: Sequence[str]) -> int:
        count = await self._spool.purge(task_ids)
        await self._gauges.measure()
        return count

    def reconnect(self) -> None:
        self._link.reconnect()

    def reset_breaker(self) -> None:
        self._guard.reset()
        self._drain.wake()

    def _reasons(self) -> list[str]:
        return [check.detail for check in self.health().checks if check.status is not CheckStatus.OK]

    def _link_check(self) -> Check:
        view, last = self._broker.view(), self._health.last
        seconds = last.duration if last is not None and last.ok else None
        if not view.connected:
            why = self._link.last_error or "connecting"
            return Check("connection", CheckStatus.DEGRADED, f"not connected to {view.node}: {why}", seconds)
        if view.blocked:
            return Check("connection", CheckStatus.DEGRADED, "the broker blocks publishers (memory or disk alarm)")
        return Check("connection", CheckStatus.OK, f"connected to {view.node}", seconds)

    def _breaker_check(self) -> Check:
        state = self._guard.state()
        status = CheckStatus.OK if state is BreakerState.CLOSED else CheckStatus.DEGRADED
        return Check("circuit_breaker", status, f"circuit breaker {state.name.lower().replace('_', '-')}")

    def _spool_check(self) -> Check:
        gauges = self._gauges
        if gauges.spool_error:
            return Check("spool", CheckStatus.FAILED, gauges.spool_error)
        return Check("spool", CheckStatus.OK, f"{gauges.spooled_tasks} tasks wait")

    def _dead_check(self) -> Check:
        dead = self._gauges.size.dead
        status = CheckStatus.DEGRADED if dead else CheckStatus.OK
        return Check("dead_letter_queue", status, f"{dead} dead letters to look at" if dead else "no dead letters")
