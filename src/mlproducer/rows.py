"""What a spool holds and is told: rows, dead letters, records, leases, verdicts, audits, and what is counted.

What a spool is told to wait for is a span, in seconds: `delay`, `hold`, `keep`. The store makes moments of them, by the
one clock that it has (docs/adr/0015). What it shows is moments again, Unix seconds as `Clock.now` gives them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from mlproducer.task import Envelope


class Attempted(Struct, frozen=True, gc=False):
    """One attempt in the history of a row. `at` is Unix seconds; `outcome` a label of `core.retry.cause_of`."""

    at: float
    outcome: str
    code: int | None = None
    text: str = ""


History = tuple[Attempted, ...]
"""Oldest first; `core.history` bounds its length."""


Acceptance = tuple[str, float]
"""A task id, and the moment in Unix seconds at which it was accepted. What is remembered of a task for longer than its
row lives is remembered by both: an id that was removed and is given anew is another task's.
"""


class NewRow(Struct, frozen=True):
    """A task that is to wait in the spool. `accepted_at` is Unix seconds."""

    envelope: Envelope
    accepted_at: float
    delay: float = 0.0
    """Seconds until it is due; it is not due before its `eta`, whatever the delay."""
    attempts: int = 0
    cause: str = ""
    text: str = ""
    alone: bool = False
    history: History = ()

    @property
    def acceptance(self) -> Acceptance:
        return self.envelope.task_id, self.accepted_at

    def first_due(self, now: float) -> float:
        """When it is due if it is put at `now`."""
        eta = self.envelope.eta
        return now + self.delay if eta is None else max(now + self.delay, eta)

    def waiting(self, due_at: float) -> SpoolRow:
        """As it waits."""
        told = (self.attempts, self.cause, self.text, self.alone, self.history)
        return SpoolRow(self.envelope, self.accepted_at, due_at, *told)


class SpoolRow(Struct, frozen=True):
    """A task that waits in the spool, whole. Times are Unix seconds."""

    envelope: Envelope
    accepted_at: float
    due_at: float
    attempts: int = 0
    cause: str = ""
    """The label of `TaskSpooled.cause`."""
    text: str = ""
    """The last error, in words."""
    alone: bool = False
    history: History = ()

    @property
    def acceptance(self) -> Acceptance:
        return self.envelope.task_id, self.accepted_at


class DeadLetter(Struct, frozen=True):
    """A task that is kept until a person replays or removes it, whole."""

    envelope: Envelope
    accepted_at: float
    died_at: float
    attempts: int
    reason: str
    code: int | None
    text: str
    history: History = ()


class Claim(Struct, frozen=True):
    """An id that a producer is about to publish. `digest` as in `Record`; `token` says whose claim it is."""

    task_id: str
    task_type: str
    digest: bytes
    accepted_at: float
    token: str = ""


class Record(Struct, frozen=True):
    """What is remembered of a task whose content is not kept here: a claim, or a confirmed task.

    A claim (`confirmed_at` is None) says that some producer is publishing this id until `held_until`; nothing was
    promised yet. `digest` is `core.digest.content_digest` of the envelope. Times are Unix seconds.
    """

    task_id: str
    task_type: str
    digest: bytes
    accepted_at: float
    keep_until: float
    """After it, `forget` removes the record."""
    confirmed_at: float | None = None
    attempts: int = 0
    held_until: float | None = None
    token: str = ""
    """Whose claim it is."""


Known = SpoolRow | DeadLetter | Record
"""A task id is in one of three places, or in none."""


class WaitingEntry(Struct, frozen=True):
    """A row as lists show it: without content."""

    task_id: str
    task_type: str
    routing_key: str
    size: int
    accepted_at: float
    due_at: float
    attempts: int
    cause: str
    text: str
    history: History = ()


class DeadEntry(Struct, frozen=True):
    """A dead letter as lists show it: without content."""

    task_id: str
    task_type: str
    routing_key: str
    size: int
    accepted_at: float
    died_at: float
    attempts: int
    reason: str
    code: int | None
    text: str
    history: History = ()


LEASE_BYTES: Final = 32 * 1024 * 1024
"""The most content in one call's leases, unless one row alone is larger: 500 rows of 8 MiB would be 4 GB."""


class Lease(Struct, frozen=True):
    """A row that is ours until the lease ends; `token` proves it. After the end another drain may take it.

    One without a token, which no store gives, is for a row that waits and that nobody holds: see `ports.Spool.settle`.
    """

    row: SpoolRow
    token: str


class Done(Struct, frozen=True):
    """Confirmed at `confirmed_at` (Unix seconds): remove the row, and leave a `Record` for `keep` seconds."""

    confirmed_at: float
    keep: float


class Again(Struct, frozen=True):
    """Back into the queue, due in `delay` seconds."""

    delay: float
    attempts: int
    cause: str
    text: str
    alone: bool
    history: History = ()


class Bury(Struct, frozen=True):
    """To the dead letter queue."""

    died_at: float
    attempts: int
    reason: str
    code: int | None
    text: str
    history: History = ()


Verdict = Done | Again | Bury
Settlement = tuple[Lease, Verdict]


def put_back(row: SpoolRow, verdict: Verdict) -> SpoolRow:
    """The row as it waits after the verdict, if it waits; its `due_at` is what it was."""
    if not isinstance(verdict, Again):
        return row
    return replace(
        row,
        attempts=verdict.attempts,
        cause=verdict.cause,
        text=verdict.text,
        alone=verdict.alone,
        history=verdict.history,
    )


class SpoolSize(Struct, frozen=True, gc=False):
    """`tasks` and `bytes` count waiting rows, leased ones included; dead letters are apart."""

    tasks: int
    bytes: int
    first_due_at: float | None
    """The earliest moment at which one that waits was due for the first time; it may lie ahead. A new row's `due_at`,
    and of a replay when it was made; a retry keeps it. So it says for how long the spool has not done what it should.
    """
    dead: int
    next_due_at: float | None
    """When the next row that nobody holds becomes due, or a held row's lease ends; None if there is none."""
    met_others: bool = False
    """Another process has used the store since we opened it. For stores that are mostly one's own: the embedded one."""
    at: float | None = None
    """The time of the store's own clock at this measurement, in Unix seconds; None where it is the host's."""


class DeadFilter(Struct, frozen=True, gc=False):
    """All given conditions must hold."""

    task_type: str | None = None
    reason: str | None = None
    older_than: float | None = None
    """Unix time: died before it."""
    text: str | None = None
    """Contained in the error text, ASCII case ignored."""
    newer_than: float | None = None
    """Unix time: died at it or after."""


class Audit(Struct, frozen=True):
    """What a person did to dead letters: kept with the spool, never removed by the producer."""

    at: float
    """Unix seconds."""
    by: str
    """Who: a name of the command line's user, or of the API key's holder."""
    action: str
    """`replay` or `purge`."""
    detail: str
    """Which ones were meant, in words: ids, or the filter."""
    task_ids: tuple[str, ...]
    """Those that were found, in the order asked for."""


class CountKey(Struct, frozen=True, order=True, gc=False):
    """What is counted: something (`kind`, `label`) of one task type, in one hour."""

    hour: int
    """Unix time in whole hours, so UTC."""
    task_type: str
    kind: str
    """A value of `core.counting.Kind`."""
    label: str = ""
    """From a bounded set: a reason, a status, the upper bound of a histogram's bucket, a model."""


Counts = Mapping[CountKey, int]


class Tally(Struct, frozen=True):
    """What is to be added, all or nothing, and once: a second tally of the same `id` adds nothing."""

    id: str
    keep: float
    """Seconds for which the id is remembered."""
    counts: Counts
