"""What the engine needs of the world, as narrow Protocols. The shells behind them are chosen in `wiring`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct

from mlproducer.events import Event, TopologyDiffers
from mlproducer.outcome import NotSentCause, Outcome
from mlproducer.rows import (
    Audit,
    Claim,
    Counts,
    DeadEntry,
    DeadFilter,
    Known,
    Lease,
    NewRow,
    Settlement,
    SpoolSize,
    Tally,
    WaitingEntry,
)
from mlproducer.task import Envelope, Flow

Listener = Callable[[Event], None]
"""Told every fact, synchronously, on the event loop, after what it tells of is done. Should be quick: while it runs,
nothing else does. One that raises harms nothing but itself: see `delivery.callbacks`."""

Settle = Callable[[Outcome], None]
"""Called exactly once with the outcome of an attempt, on the event loop, perhaps before `publish` returns."""


class Clock(Protocol):
    """Time and chance, so that tests can own both."""

    def monotonic(self) -> float:
        """Seconds that never go back; for deadlines and durations."""
        ...

    def now(self) -> float:
        """Unix time in seconds; for what is stored or shown."""
        ...

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...


class LinkView(Struct, frozen=True, gc=False):
    """What the engine may know of the link at one moment."""

    connected: bool
    """Channels open, confirms on, topology verified: a publish can be written now, unless it is `blocked`."""
    blocked: bool
    """By an alarm. Then it may have no channel, as it answers nothing: it is connected all the same."""
    in_flight: int
    in_flight_bytes: int
    node: str
    """`host:port` of the current or last host; never a password."""
    differences: tuple[TopologyDiffers, ...] = ()
    """What was found to be other than ours at the last connect."""
    alarm: str = ""
    """Why it is blocked, in the broker's words; empty if it is not, or the broker does not say."""
    missing: tuple[str, ...] = ()
    """Queues that are used and were not there when they were last looked at."""


class QueueDepth(Struct, frozen=True, gc=False):
    """What a broker tells of a queue to whoever may look at it."""

    ready: int
    """Messages that no worker has taken yet."""
    consumers: int
    """Who reads it: workers, or others. 0: what is ready stays there."""


class QueueTraffic(Struct, frozen=True, gc=False):
    """What AMQP does not tell of a queue and RabbitMQ's management API does. Rates are messages a second, as the broker
    averages them; None is what it does not say, such as a rate of what never happened.
    """

    unacked: int | None = None
    """Messages that workers hold and have not acknowledged."""
    published: float | None = None
    delivered: float | None = None
    acked: float | None = None


AskTraffic = Callable[[Collection[str]], Awaitable[Mapping[str, QueueTraffic]]]
"""The traffic of these queues, by name; one that is not there is left out. Raises: MLProducerError."""


class Broker(Protocol):
    """A link to one broker at a time. It never reconnects by itself: the supervisor decides that."""

    async def connect(self) -> None:
        """One attempt, on the next host of the list: TCP, TLS, handshake, channels, confirms, topology.

        Raises: BrokerError, after which everything it opened is closed again.
        """
        ...

    async def close(self) -> None:
        """Close the link politely within its connection timeout, then hard. In flight becomes `Unsure`."""
        ...

    def publish(self, envelope: Envelope, settle: Settle, *, deadline: float, alone: bool = False) -> None:
        """Write one mandatory, persistent message and promise `settle` exactly once.

        `deadline` is on `Clock.monotonic`. `alone` uses a channel that carries nothing else meanwhile, so that a
        channel error can be blamed on this message (then `NotSent(CHANNEL_REFUSED)`). Never raises for reasons of
        the link: those are outcomes.
        """
        ...

    def move(self) -> None:
        """From soon on publish on another channel: something that is in flight on this one waits for a queue, and the
        broker may stop taking what comes behind it. What is in flight keeps its time.
        """
        ...

    @property
    def obstacle(self) -> NotSentCause | None:
        """Why nothing can be published now: NOT_CONNECTED, BLOCKED, or None. Asked before each attempt. An alarm goes
        before what follows from it, such as a channel that cannot be opened.
        """
        ...

    @property
    def paused(self) -> bool:
        """The socket's write buffer is over its high mark: wait for `writable` before the next publish."""
        ...

    async def writable(self, deadline: float) -> bool:
        """Wait until the socket takes more, or False at `deadline` or when the link is lost."""
        ...

    async def check(self) -> None:
        """A passive declare of the exchange. A broker that confirms meanwhile may take longer than the check's timeout.

        Raises: BrokerError.
        """
        ...

    async def queue_depths(self) -> dict[str, QueueDepth]:
        """By queue name, of the queues that exist and answer in time. What is ours to make and gone is
        made again, and each binding of ours once more. Raises: BrokerError.
        """
        ...

    def view(self) -> LinkView: ...


class Spool(Protocol):
    """The durable retry queue, the dead letter queue, and the memory of ids. Durable on return.

    **One time.** Whether a row is due, a lease or a claim is over, and a task expired is decided by one clock, the
    store's: a server's own, or for a store of one machine a clock that nobody can set. It is told spans, in seconds,
    and never what time it is. An `eta` and an `expires` are moments in UTC, and so they are compared with the best that
    the store knows of it: the server's clock, or the host's. What a store shows is in Unix seconds.

    Every method raises `SpoolUnavailable` when the store cannot be used; then nothing of the call was stored, unless
    the store died while it answered: a call repeated after that finds what it did the first time.
    """

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def watch(self, added: Callable[[], None]) -> None:
        """Call `added` on the event loop when others have put rows. Said before `open`. A store that cannot hear of
        others never calls it; the drain's poll finds their rows all the same.
        """
        ...

    def put(self, row: NewRow) -> Awaitable[bool]:
        """Commit one row (commits are grouped); it takes the place of a claim of its id.

        False if the id waits, is dead or is confirmed already: then it is safe as it was, and nothing is changed.
        Raises: SpoolUnavailable, with nothing stored. A caller cancelled while it waits leaves the row either
        committed whole or not at all.
        """
        ...

    def claim(self, claim: Claim, *, hold: float) -> Awaitable[Known | None]:
        """Take the id for an attempt of ours, before anything is published. None: it is ours for `hold` seconds.

        Else what is there: a row, a dead letter, a confirmed record, or a claim of another that still holds. A claim
        that is over is taken over, whatever its digest: nobody was promised anything.
        """
        ...

    async def confirm(self, claim: Claim, *, confirmed_at: float, keep: float) -> None:
        """A claimed task was confirmed: a `Record` takes the claim's place, for `keep` seconds. Nothing if the id is
        no claim any more, but for a claim of another, which it replaces too: the task *is* confirmed.
        """
        ...

    async def release(self, task_id: str, token: str) -> None:
        """Our claim came to nothing: remove it, if it is still ours."""
        ...

    async def flows(self) -> Sequence[Flow]:
        """Those of rows that may be leased now, each once, in no promised order."""
        ...

    async def lease(
        self, limit: int, *, hold: float, expired: bool = False, shares: Mapping[Flow, int] | None = None
    ) -> Sequence[Lease]:
        """Up to `limit` rows that are due and not held, oldest `due_at` first; they are ours for `hold` seconds. Fewer
        than there are, but at least one, where more would be over `LEASE_BYTES`.

        With `expired`, only rows whose envelope's `expires_at` is past, due or not.

        With `shares`, only rows of these flows, at most so many of each, the oldest of each first, and at most
        `limit` in all; a share of 0 gives none. Where `limit` or `LEASE_BYTES` is short, the flows take turns in the
        order of `shares`: one row of each before a second of any. Not together with `expired`: ValueError.
        """
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        """Commit the verdicts, in one transaction. For each, False if its lease was lost meanwhile; then that row
        was not changed.

        A lease with no token holds as long as the id waits, accepted at the same moment, and has no lease at all, be it
        due or not. Of several settlements of one id in a call, the first that holds is the one that counts.
        """
        ...

    async def measure(self) -> SpoolSize: ...

    async def find(self, task_id: str) -> Known | None: ...

    async def waiting(self, *, limit: int, offset: int = 0) -> Sequence[WaitingEntry]:
        """By `due_at`, then task id."""
        ...

    async def dead(self, where: DeadFilter, *, limit: int, offset: int = 0) -> Sequence[DeadEntry]:
        """Newest first, then by task id."""
        ...

    async def count_dead(self, where: DeadFilter) -> int: ...

    async def replay(self, audit: Audit) -> int:
        """Dead letters `audit.task_ids` back to waiting, due at once with no attempts spent; their history stays. The
        audit is kept in the same transaction, with the ids that were found. Returns how many were.
        """
        ...

    async def purge(self, audit: Audit) -> int:
        """Remove dead letters for good; else as `replay`."""
        ...

    async def audits(self, *, limit: int, offset: int = 0) -> Sequence[Audit]:
        """Newest first. An audit that found no id at all was not kept."""
        ...

    async def forget(self, *, limit: int) -> int:
        """Remove up to `limit` records (and claims) that were to be kept no longer; how many there were."""
        ...


@runtime_checkable
class Counters(Protocol):
    """Sums that many producers add to, and that survive them. In a spool's store; it raises as a spool does."""

    async def count(self, tallies: Sequence[Tally]) -> Sequence[bool]:
        """Add, in one transaction. For each, False if its id was counted before; then nothing of it was added."""
        ...

    async def counts(self, *, since: int, until: int, hourly: bool) -> Counts:
        """The sums of the hours from `since` to before `until`. Not `hourly`: over all of them, as if of `since`."""
        ...

    async def forget_counts(self, *, before: int, limit: int) -> int:
        """Remove up to `limit` ids that were to be kept no longer, and the sums of hours before `before`.

        How many ids there were.
        """
        ...


class CountingSpool(Spool, Counters, Protocol):
    """Both, in one store."""
