"""What `doctor` says of the broker's version: what RabbitMQ does otherwise from a release on, and whom here it meets.

The version is the handshake's. Of most limits a broker tells its clients nothing, so each finding says what is so by
default. docs/compatibility.md has the same list, and how each line was seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mlproducer.cli.findings import Finding, Verdict
from mlproducer.status import BrokerFacts, FoundQueue

Release = tuple[int, int]

OLDEST_TRIED: Final[Release] = (3, 10)
NEWEST_TRIED: Final[Release] = (4, 3)
"""By `make matrix`."""

_REFUSED_SINCE_4_3: Final = ("x-queue-version 1", "x-queue-master-locator")
"""As the words for a queue have them."""


def of_release(facts: BrokerFacts) -> Iterator[Finding]:
    """Nothing of a broker that is not RabbitMQ, or tells no version."""
    release = _release(facts)
    if release is None:
        return
    yield _tried(facts, release)
    if release >= (4, 0):
        yield _redelivery(facts)
        yield _mirrors(facts)
        yield _transient()
    if release >= (4, 3):
        yield _prefetch(facts)
        yield _arguments(facts)


def _release(facts: BrokerFacts) -> Release | None:
    major, _, rest = facts.version.partition(".")
    minor = rest.partition(".")[0]
    if facts.product != "RabbitMQ" or not (major.isdecimal() and minor.isdecimal()):
        return None
    return int(major), int(minor)


def _tried(facts: BrokerFacts, release: Release) -> Finding:
    span = f"RabbitMQ {'.'.join(map(str, OLDEST_TRIED))} to {'.'.join(map(str, NEWEST_TRIED))}"
    if OLDEST_TRIED <= release <= NEWEST_TRIED:
        return Finding("broker version", Verdict.OK, f"{facts.version}; the tests are run on {span}")
    age = "older" if release < OLDEST_TRIED else "newer"
    detail = f"{facts.version} is {age} than what the tests are run on: {span}"
    return Finding(
        "broker version", Verdict.WARNING, detail, "try it before it carries tasks: see docs/compatibility.md"
    )


def _redelivery(facts: BrokerFacts) -> Finding:
    check, rule = "redeliveries", "RabbitMQ 4 gives a message up after 20 deliveries where a queue sets no limit"
    unlimited = _names(facts, "its x-delivery-limit is not set")
    if not unlimited:
        return Finding(check, Verdict.OK, f"{rule}; the queues that mlproducer makes have a limit of their own")
    detail = f"{rule}, as {unlimited}; without a dead letter exchange there it is dropped"
    todo = "give the queue a delivery limit and a dead letter exchange, in a policy or as it is declared"
    return Finding(check, Verdict.WARNING, detail, todo)


def _mirrors(facts: BrokerFacts) -> Finding:
    check, rule = "mirrored queues", "RabbitMQ 4 mirrors no classic queue; ha-mode in a policy has no effect any more"
    classic = _names(facts, "its x-queue-type is classic", "its x-queue-type is not set")
    if not classic:
        return Finding(check, Verdict.OK, f"{rule}; no queue of ours is known to be classic")
    detail = f"{rule}: what waits in {classic} is on one node, and lost with it"
    return Finding(
        check, Verdict.WARNING, detail, "on a cluster, make it a quorum queue: empty it, delete it, declare it"
    )


def _transient() -> Finding:
    detail = (
        "RabbitMQ 4 warns of queues that are neither durable nor exclusive, and a later release will refuse them: "
        "mlproducer makes none; Celery 5.4 makes some for remote control and events, the newest Celery does not"
    )
    return Finding("transient queues", Verdict.OK, detail)


def _prefetch(facts: BrokerFacts) -> Finding:
    detail = (
        "RabbitMQ 4.3 counts a worker's prefetch for each consumer, and never for a channel: a Celery worker cannot "
        "raise it while it holds tasks with an eta, so as many of these as its prefetch stop it. Tasks that mlproducer "
        "publishes wait for their eta in its spool; those of others do not"
    )
    read = any(queue.consumers for queue in facts.queues)
    return Finding("prefetch", Verdict.OK, detail if read else f"{detail}. Nobody reads our queues now")


def _arguments(facts: BrokerFacts) -> Finding:
    check, rule = "queue arguments", f"RabbitMQ 4.3 refuses {' and '.join(_REFUSED_SINCE_4_3)} as a queue is declared"
    refused = [queue.name for queue in facts.queues if any(name in queue.made for name in _REFUSED_SINCE_4_3)]
    if not refused:
        return Finding(check, Verdict.OK, f"{rule}; no route asks for them")
    detail = f"{rule}, and the route of {', '.join(refused)} asks for it"
    return Finding(check, Verdict.FAILED, detail, "take it out of the route's arguments (ML_TASK_TYPES)")


def _names(facts: BrokerFacts, *signs: str) -> str:
    def has(queue: FoundQueue) -> bool:
        return queue.exists and any(sign in queue.differs for sign in signs)

    return ", ".join(queue.name for queue in facts.queues if has(queue))
