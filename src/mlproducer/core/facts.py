"""What is known of a producer at one moment: all that `core.verdict` judges by, and all that a face shows of its state.

Times are seconds, and spans. What is not known stays at its default, which is well: `doctor`, which runs without an
engine, knows of the broker and of the spool alone.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """`next_attempt`: seconds until the next connect; None if one is under way or none is needed."""

    connected: bool = True
    blocked: bool = False
    alarm: str = ""
    """The broker's words for why it blocks; may be empty."""
    node: str = ""
    error: str = ""
    exhausted: bool = False
    """The attempts of the cycle are spent: one try at each health check."""
    next_attempt: float | None = None
    breaker: str = "closed"
    """Or `open`, or `half_open`."""
    failures: int = 0
    """In a row."""
    probe_in: float | None = None
    """Seconds until an open breaker lets a probe pass."""


@dataclass(frozen=True, slots=True)
class Room:
    """What the spool has. `fill` is a share of the limit that is nearest, `limit` its setting."""

    tasks: int = 0
    bytes: int = 0
    fill: float = 0.0
    limit: str = "ML_SPOOL_MAX_TASKS"
    full_in: float | None = None
    """Seconds until it is full, as it grows now; None while it does not grow."""
    closed: bool = False
    """It was full, and takes nothing until it has room again."""
    error: str = ""
    """Why it cannot be used."""
    late: float = 0.0
    """Seconds for which a task has waited that it was not told to wait."""
    dead: int = 0

    @property
    def refuses(self) -> bool:
        return self.closed or self.fill >= 1


@dataclass(frozen=True, slots=True)
class HeldRoute:
    """A route that is not open. `since` and `probe_in` in seconds; `probe_in` is None while a probe is on its way."""

    key: str
    reason: str
    since: float
    probe_in: float | None = None
    failing: bool = False
    every: bool = False
    """It stands for the exchange, and so for all routes."""


@dataclass(frozen=True, slots=True)
class SeenQueue:
    """A queue at the broker. `missing` says in words why tasks cannot get there; empty if they can.

    `growth`: ready messages per second, between the last two looks; None before the second. The last four are told by
    the management API alone (`ports.QueueTraffic`), and None without it.
    """

    name: str
    ready: int = 0
    consumers: int = 0
    missing: str = ""
    growth: float | None = None
    unacked: int | None = None
    published: float | None = None
    delivered: float | None = None
    acked: float | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """One moment. Times are seconds, and spans; what is not known is left at its default, which is well."""

    accepting: bool = True
    link: LinkFacts = LinkFacts()
    room: Room = Room()
    routes: tuple[HeldRoute, ...] = ()
    queues: tuple[SeenQueue, ...] = ()
    traffic_note: str = ""
    """Why `unacked` and the rates of queues are not known; empty if they are."""
    refused: tuple[tuple[str, int], ...] = ()
    """Calls refused within the window, by the error's class name."""
    accepted: bool = True
    """A task was accepted within the window."""
    in_flight: int = 0
    silent: float = 0.0
    """Since the broker last answered an attempt, while some are in flight."""
    late: tuple[tuple[str, float], ...] = ()
    """Routes whose confirms come late, and for how many seconds each is waited for."""
    drain_still: float = 0.0
    """Since the drain last began a turn."""
    drain_limit: float = 0.0
    """What a batch of it may take."""
    blobs_error: str = ""
    clock_note: str = ""

    @property
    def passes(self) -> bool:
        """The way to the broker is open, whatever single route is held."""
        link, shut = self.link, any(route.every and not route.failing for route in self.routes)
        return link.connected and not link.blocked and link.breaker == "closed" and not shut
