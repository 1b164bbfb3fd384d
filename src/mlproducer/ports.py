"""What the engine needs of the world, as narrow Protocols. The shells behind them are chosen in `wiring`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mlproducer.events import Event
from mlproducer.outcome import Outcome
from mlproducer.task import Envelope

Listener = Callable[[Event], None]
"""Told every fact, synchronously, on the event loop. Must be quick and must not raise."""

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


@dataclass(frozen=True, slots=True)
class LinkView:
    """What the engine may know of the link at one moment."""

    connected: bool
    """Channels open, confirms on, topology verified: a publish can be written now."""
    blocked: bool
    in_flight: int
    in_flight_bytes: int
    node: str
    """`host:port` of the current or last host; never a password."""


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

    @property
    def paused(self) -> bool:
        """The socket's write buffer is over its high mark: wait for `writable` before the next publish."""
        ...

    async def writable(self, deadline: float) -> bool:
        """Wait until the socket takes more, or False at `deadline` or when the link is lost."""
        ...

    async def check(self) -> None:
        """A passive declare of the exchange on the control channel, within the check's timeout.

        Raises: BrokerError.
        """
        ...

    async def queue_depths(self) -> dict[str, int]:
        """Ready messages by queue name, for the queues that exist. Raises: BrokerError."""
        ...

    def view(self) -> LinkView: ...


@dataclass(frozen=True, slots=True)
class SpoolRow:
    """A task that waits in the spool. Times are Unix seconds."""

    envelope: Envelope
    accepted_at: float
    due_at: float
    attempts: int = 0
    cause: str = ""
    """The label of `TaskSpooled.cause`."""
    text: str = ""
    """The last error, in words."""
    alone: bool = False


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A task that is kept until a person replays or removes it."""

    envelope: Envelope
    accepted_at: float
    died_at: float
    attempts: int
    reason: str
    code: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Lease:
    """A row that is ours until the lease ends; `token` proves it. After the end another drain may take it."""

    row: SpoolRow
    token: str


@dataclass(frozen=True, slots=True)
class Done:
    """Confirmed: remove the row."""


@dataclass(frozen=True, slots=True)
class Again:
    """Back into the queue, for `due_at`."""

    due_at: float
    attempts: int
    cause: str
    text: str
    alone: bool


@dataclass(frozen=True, slots=True)
class Bury:
    """To the dead letter queue."""

    died_at: float
    attempts: int
    reason: str
    code: int | None
    text: str


Verdict = Done | Again | Bury


@dataclass(frozen=True, slots=True)
class SpoolSize:
    """`tasks` and `bytes` count waiting rows, leased ones included; dead letters are apart."""

    tasks: int
    bytes: int
    oldest_accepted_at: float | None
    dead: int
    next_due_at: float | None
    """When the next row that nobody holds becomes due, or a held row's lease ends; None if there is none."""


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """All given conditions must hold."""

    task_type: str | None = None
    reason: str | None = None
    older_than: float | None = None
    """Unix time: died before it."""
    text: str | None = None
    """Contained in the error text, ASCII case ignored."""


class Spool(Protocol):
    """Durable on return. Every method raises `SpoolUnavailable` when the store cannot be used."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def put(self, row: SpoolRow) -> bool:
        """Commit one row (commits are grouped). False if the task id is there already: then it is safe as it was.

        Raises: SpoolUnavailable, with nothing stored. A caller cancelled while it waits leaves the row either
        committed whole or not at all.
        """
        ...

    async def lease(self, limit: int, *, now: float, until: float) -> Sequence[Lease]:
        """Up to `limit` rows that are due and not held, oldest `due_at` first; they are ours until `until`."""
        ...

    async def settle(self, lease: Lease, verdict: Verdict) -> bool:
        """Commit the verdict (grouped). False if the lease was lost meanwhile; then nothing was changed."""
        ...

    async def measure(self) -> SpoolSize: ...

    async def find(self, task_id: str) -> SpoolRow | DeadLetter | None: ...

    async def waiting(self, *, limit: int, offset: int = 0) -> Sequence[SpoolRow]:
        """By `due_at`, then task id."""
        ...

    async def dead(self, where: DeadFilter, *, limit: int, offset: int = 0) -> Sequence[DeadLetter]:
        """Newest first."""
        ...

    async def replay(self, task_ids: Sequence[str], *, now: float) -> int:
        """Dead letters back to waiting, due at `now` with no attempts spent. Returns how many were found."""
        ...

    async def purge(self, task_ids: Sequence[str]) -> int:
        """Remove dead letters for good. Returns how many were found."""
        ...
