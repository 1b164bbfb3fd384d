"""Health by parts: each check has the causes of the verdict that are its own, or else what is well there.

`failed` is said only of what makes new tasks be refused. What is `degraded` wants a look, and tasks are accepted.
"""

from __future__ import annotations

from typing import Final

from mlproducer.core.facts import Facts
from mlproducer.core.verdict import Cause, Code, Verdict
from mlproducer.delivery.drain import Drain
from mlproducer.delivery.gauges import Gauges
from mlproducer.delivery.health import HealthCheck
from mlproducer.delivery.pipeline import Pipeline
from mlproducer.ports import Broker
from mlproducer.status import Check, CheckStatus, Health

PARTS: Final[dict[str, tuple[Code, ...]]] = {
    "accepting": (Code.NOT_ACCEPTING,),
    "connection": (Code.NOT_CONNECTED, Code.CONNECTING, Code.BLOCKED),
    "channel_and_topology": (Code.NOT_CONNECTED, Code.CONNECTING, Code.QUEUE_MISSING),
    "circuit_breaker": (Code.BREAKER_OPEN, Code.BREAKER_PROBING),
    "routes": (Code.EXCHANGE_HELD, Code.ROUTE_FAILING, Code.ROUTE_HELD),
    "workers": (Code.UNREAD,),
    "spool": (Code.SPOOL_FAILS,),
    "spool_fill": (Code.SPOOL_FULL, Code.SPOOL_FILLS),
    "retry_queue": (Code.BACKLOG,),
    "refusals": (Code.ALL_REFUSED, Code.SOME_REFUSED),
    "dead_letter_queue": (Code.DEAD,),
    "drain": (Code.DRAIN_STILL,),
    "last_confirm": (Code.SILENT, Code.ANSWERS_LATE),
    "blob_store": (Code.BLOBS_FAIL,),
    "clock": (Code.CLOCK,),
}
"""Which causes are whose; a test sees that none is nobody's."""


class Checks:
    """Reads the parts, changes nothing."""

    def __init__(self, broker: Broker, health: HealthCheck, gauges: Gauges, drain: Drain, pipeline: Pipeline) -> None:
        self._broker = broker
        self._health = health
        self._gauges = gauges
        self._drain = drain
        self._pipeline = pipeline

    def all(self, facts: Facts, verdict: Verdict, confirm_age: float | None) -> Health:
        """`confirm_age`: seconds since the last confirm, None if there was none."""
        well = self._well(facts, confirm_age)
        took = self._took()
        checks = [
            _check(part, [cause for cause in verdict.causes if cause.code in codes], well.get(part, ""), took.get(part))
            for part, codes in PARTS.items()
        ]
        return Health(tuple(check for check in checks if check.detail), verdict)

    def _well(self, facts: Facts, confirm_age: float | None) -> dict[str, str]:
        """What each part says while nothing is wrong with it. One that is not here is not shown then."""
        room, batches = facts.room, self._drain.batches
        # Other arguments than ours are how many systems are: their queues are used as they are, and it is said here.
        differences = "; ".join(f"{each.name}: {each.text}" for each in self._broker.view().differences)
        found = {
            "accepting": "new tasks are taken",
            "connection": f"connected to {facts.link.node}",
            "channel_and_topology": differences or "a channel is open, exchange and queues are as expected",
            "circuit_breaker": "circuit breaker closed",
            "routes": "all routes are open",
            "workers": "no queue is known that nobody reads",
            "spool": f"{room.tasks} tasks wait",
            "spool_fill": f"{room.fill:.1%} of its nearest limit ({room.limit})",
            "retry_queue": "nothing waits that was not told to",
            "refusals": "no call was refused of late",
            "dead_letter_queue": "no dead letters",
            "drain": f"{batches} batches under way" if batches else "idle",
            "last_confirm": "no confirm yet" if confirm_age is None else f"last confirm {confirm_age:.1f} s ago",
        }
        if (blobs := self._pipeline.blobs) is not None:
            found["blob_store"] = "it took the last large payload" if blobs.seconds else "not used yet"
        return found

    def _took(self) -> dict[str, float | None]:
        """Milliseconds of the last active look at a part."""
        last, blobs = self._health.last, self._pipeline.blobs
        return {
            "connection": _ms(last.duration) if last is not None and last.ok else None,
            "spool": _ms(self._gauges.seconds),
            "blob_store": None if blobs is None else _ms(blobs.seconds),
        }


def _check(part: str, causes: list[Cause], well: str, ms: float | None) -> Check:
    if not causes:
        return Check(part, CheckStatus.OK, well, ms)
    status = CheckStatus.FAILED if any(cause.refuses for cause in causes) else CheckStatus.DEGRADED
    if all(cause.code is Code.QUEUE_MISSING for cause in causes):
        return Check(part, status, well, ms)  # it has the others that differ, too
    return Check(part, status, "; ".join(cause.text for cause in causes), ms)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
