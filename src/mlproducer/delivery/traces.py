"""What the engine tells of calls and batches that are traced. The shell behind it is `telemetry.tracing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from mlproducer.ports import Settle
from mlproducer.rows import Lease, SpoolRow
from mlproducer.task import Envelope, Task


class CallTrace(Protocol):
    """One call that is traced, from the task to its receipt. Nothing here raises."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The trace context, for the message."""
        ...

    def attempt(self, envelope: Envelope, settle: Settle) -> Settle:
        """The direct attempt begins: call what this returns in place of `settle`."""
        ...

    def refused(self, error: Exception) -> None:
        """Why the call will end without a receipt."""
        ...

    def end(self, envelope: Envelope | None, state: str) -> None:
        """Said once. `state` is that of the receipt, or `known` (another call has the task), `refused`, `abandoned`
        (the caller went), `added` (to an outbox). No envelope: the task did not come to be encoded, or another has it.
        """
        ...


class BatchTrace(Protocol):
    """One batch of the drain that is traced. Nothing here raises."""

    def attempt(self, row: SpoolRow, settle: Settle) -> Settle:
        """An attempt of this row begins: call what this returns in place of `settle`."""
        ...

    def end(self) -> None: ...


class Tracer(Protocol):
    """Traces what has a beginning and an end, which the facts of `events` have not (docs/adr/0009)."""

    def call(self, task: Task) -> CallTrace | None:
        """A call with this task begins; None if nobody traces it. Never raises."""
        ...

    def batch(self, leases: Sequence[Lease]) -> BatchTrace | None:
        """The drain begins a batch, in an asyncio task of its own; None if nobody traces it. Never raises."""
        ...
