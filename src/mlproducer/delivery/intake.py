"""Into the spool: admission, the caller's deadline, the commit."""

from __future__ import annotations

import asyncio
from typing import Final

from mlproducer.core.admission import SpoolGate
from mlproducer.core.facts import Room
from mlproducer.delivery.claims import receipt_of
from mlproducer.delivery.deadlines import Deadlines, is_late
from mlproducer.delivery.gauges import Gauges
from mlproducer.delivery.receipts import Accepting
from mlproducer.errors import NotInTime, SpoolFull, SpoolUnavailable, TaskConflict
from mlproducer.ports import Clock, Spool
from mlproducer.rows import NewRow
from mlproducer.task import Receipt

RETRY_AFTER: Final = 5.0
"""Seconds: what we tell a refused caller. A drain that runs makes room in less, an outage takes longer anyway."""


class Intake:
    """`waits`: a full spool lets callers wait up to their deadline (`ML_SPOOL_OVERFLOW=wait`)."""

    def __init__(self, spool: Spool, gate: SpoolGate, gauges: Gauges, clock: Clock, *, waits: bool) -> None:
        self._spool = spool
        self._gate = gate
        self._gauges = gauges
        self._clock = clock
        self._deadlines = Deadlines(clock)
        self._waits = waits

    async def commit(self, accepting: Accepting, row: NewRow) -> Receipt | None:
        """Commit the row. None: it is in the spool, as ours. A receipt: its id was safe already, by another call.

        Raises: SpoolFull, SpoolUnavailable, TaskConflict, NotInTime.
        """
        size = row.envelope.size
        if (full := self._refusal(size)) is not None:
            await self._room(accepting, size, full)
        accepting.committing = True
        self._gauges.putting(size)
        try:
            while not await self._deadlines.by(accepting.until, self._spool.put(row)):
                # Race: what was there when the put was refused is drained, or its claim let go, before this look.
                # Then nothing is found, and the put is tried again.
                known = await self._deadlines.by(accepting.until, self._spool.find(row.envelope.task_id))
                receipt = None if known is None else receipt_of(known, row.envelope)
                if receipt is not None:
                    self._gauges.not_put(size)
                    return receipt
        except SpoolUnavailable:
            # Else a store that is away for long would look full, and its callers be told so.
            self._gauges.not_put(size)
            accepting.committing = False
            raise
        except TaskConflict:
            self._gauges.not_put(size)
            raise
        except BaseException as error:
            # Cancelled, or failed as nobody thought of: the row is left out, or committed whole. Nobody can say which.
            self._gauges.put(size)
            if not (isinstance(error, asyncio.CancelledError) and is_late(error)):
                raise
            raise NotInTime(
                "the spool did not commit the task before the deadline (ML_ACCEPT_TIMEOUT, or the call's own timeout): "
                "is the disk or the database slow, or held by another process (see health)? Publish again with the "
                "same task id"
            ) from None
        self._gauges.put(size)
        accepting.claim = None  # the row took its place
        return None

    def close(self) -> None:
        """Nobody waits for room any more: the producer stops."""
        self._waits = False
        self._gauges.wake()

    async def _room(self, accepting: Accepting, size: int, full: str | None) -> None:
        """Wait until the spool is no longer `full`, if that is the rule. Raises: SpoolFull."""
        while full is not None:
            left = self._left(accepting)
            if not self._waits or left <= 0:
                raise SpoolFull(full, retry_after=RETRY_AFTER)
            await self._gauges.next(left)
            full = self._refusal(size)

    def room(self, error: str) -> Room:
        """What the spool has; `error` is why it cannot be used."""
        gauges, gate = self._gauges, self._gate
        tasks, size, age = gauges.spooled_tasks, gauges.spooled_bytes, gauges.oldest_age()
        limit, fill = gate.nearest(tasks, size, age)
        full_in = gate.full_in(tasks, size, age, *gauges.growth())
        closed = gate.refuses(tasks, size, age)
        return Room(tasks, size, fill, limit, full_in, closed, error, age, gauges.size.dead)

    def _refusal(self, size: int) -> str | None:
        gauges = self._gauges
        return self._gate.check(gauges.spooled_tasks, gauges.spooled_bytes, gauges.oldest_age(), size)

    def _left(self, accepting: Accepting) -> float:
        return accepting.until - self._clock.monotonic()
