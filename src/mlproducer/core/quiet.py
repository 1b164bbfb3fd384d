"""A queue that does not answer is found before the time of its attempts is over.

RabbitMQ bounds what waits for a queue (its credit flow). A channel with some 30 messages on their way to a quorum queue
that does not go on still works, but after 400 more the broker stops reading from its whole connection: then no route is
served, and all that is in flight runs into the confirm timeout together. Nothing that is published can come before
that; so what is published must go elsewhere in time.

A route is *quiet* if it has `MANY` attempts in flight, and answered none of them for `AFTER` seconds in which `OTHERS`
attempts of other routes were confirmed. Then

    new tasks of other routes go on another channel of the same connection, which the quiet queue has not stopped
    new tasks of its own wait in the spool: one would stop that channel as well

until an attempt on it comes to its end, in whatever way: an answer, or the end of its time, which holds the route
(`core.routes`). Nothing is judged here, and nothing is spent: a queue that was only slow is late by some tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MANY: Final = 16
"""Half of what RabbitMQ lets a channel send to a quorum queue before it minds (`quorum_commands_soft_limit`, 32)."""
OTHERS: Final = 100
"""A quarter of what it then still takes on the channel (`credit_flow_default_credit`, 400)."""
AFTER: Final = 0.1
"""Seconds: a queue that writes to its disk takes some hundredths. At 4,000 tasks a second and more the 400 are used up
before it is over, and the confirm timeout has to find out."""
EVERY: Final = 64
"""Attempts between two looks."""


@dataclass(slots=True)
class Hearing:
    """Of one route: when it last answered, or had nothing in flight."""

    at: float = 0.0
    confirmed: int = 0
    """How many attempts of all routes were confirmed by then."""
    quiet: bool = False

    def heard(self, now: float, confirmed: int) -> None:
        self.at, self.confirmed, self.quiet = now, confirmed, False

    def listen(self, in_flight: int, now: float, confirmed: int) -> bool:
        """Look whether it falls quiet. Nothing of its own was confirmed since, so all that was is the others'."""
        if self.quiet or in_flight < MANY:
            return False
        self.quiet = now - self.at >= AFTER and confirmed - self.confirmed >= OTHERS
        return self.quiet
