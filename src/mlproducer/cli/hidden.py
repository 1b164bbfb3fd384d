"""What `doctor` says of losses that a confirm hides: pure judgements of what the management API tells.

A task is confirmed once a queue has it, whichever; and what becomes of it there is the queue's own business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from mlproducer.cli.findings import Finding, Verdict
from mlproducer.core.topics import takes
from mlproducer.ports import QueueTraffic
from mlproducer.status import Behind, QueueRules

UNSEEN: Final = Finding(
    "behind the exchange",
    Verdict.OK,
    "not looked at, since AMQP does not show it: bindings of others, an alternate exchange or limits set by a policy, "
    "alarms, what workers hold and the rates of queues. The first ones can hide that a task is lost after its confirm",
    "name the management API: RABBITMQ_MANAGEMENT_URL",
)


def of_hidden(behind: Behind, exchange: str, queues: Sequence[str]) -> Iterator[Finding]:
    """`queues` are those of our routes; each is bound by its name."""
    yield from _alarms(behind)
    yield _alternate(behind, exchange)
    yield _others(behind, exchange, queues)
    for queue in queues:
        rules = behind.queues.get(queue)
        if rules is not None:
            yield _of_queue(queue, rules, bound=any(_is_own(each.name, each.queue, queue) for each in behind.bound))
        traffic = behind.traffic.get(queue)
        if traffic is not None and traffic.unacked is not None:
            yield Finding(f"traffic of {queue}", Verdict.OK, _traffic(traffic))


def _alarms(behind: Behind) -> Iterator[Finding]:
    """Of any node: a cluster blocks publishers on all of them."""
    if behind.alarms:
        detail = f"{', '.join(behind.alarms)}: publishers are blocked, and tasks wait in the spool"
        yield Finding("alarms of nodes", Verdict.WARNING, detail, "free memory or disk there, or raise the limits")


def _alternate(behind: Behind, exchange: str) -> Finding:
    check = "alternate exchange"
    if not behind.alternate:
        return Finding(check, Verdict.OK, f"{exchange} has none: what no queue takes comes back")
    detail = (
        f"{exchange} has {behind.alternate}: a task whose queue is gone goes there and is confirmed, if any queue of "
        "that one takes it"
    )
    return Finding(check, Verdict.WARNING, detail, "take it away, or let a durable queue there be watched")


def _others(behind: Behind, exchange: str, queues: Sequence[str]) -> Finding:
    """Who takes our tasks besides their own queue: on his word a task is confirmed whose own queue is gone."""
    check = "other bindings"
    told = []
    for each in behind.bound:
        taken = [queue for queue in queues if takes(each.key, queue) and not _is_own(each.name, each.queue, queue)]
        if taken:
            told.append(f"{_kind(behind, each.name, each.queue)} {each.name} takes {each.key}")
    if not told:
        return Finding(check, Verdict.OK, f"none of {exchange} takes tasks that are of another queue")
    detail = (
        f"{'; '.join(told)}. If a task's own queue is gone, it is confirmed on the word of these until the next health "
        "check finds that (ML_HEALTH_INTERVAL)"
    )
    return Finding(check, Verdict.WARNING, detail, "bind them to another exchange, or by the keys that they are for")


def _kind(behind: Behind, name: str, queue: bool) -> str:  # noqa: FBT001  # what it is
    if not queue:
        return "the exchange"
    rules = behind.queues.get(name)
    passing = rules is not None and (rules.passing or not rules.durable)
    return "the transient queue" if passing else "the queue"


def _traffic(traffic: QueueTraffic) -> str:
    rates = {"published": traffic.published, "delivered": traffic.delivered, "acknowledged": traffic.acked}
    told = [f"{rate:.1f}/s {what}" for what, rate in rates.items() if rate is not None]
    return ", ".join([f"workers hold {traffic.unacked:,} that they have not acknowledged", *told])


def _is_own(name: str, is_queue: bool, queue: str) -> bool:  # noqa: FBT001  # what it is
    return is_queue and name == queue


def _of_queue(queue: str, rules: QueueRules, *, bound: bool) -> Finding:
    told = []
    if not bound:
        told.append("nothing binds it to the exchange by its name: its tasks come back")
    if not rules.durable:
        told.append("it is not durable: its tasks are gone when the broker restarts")
    if rules.passing:
        told.append("it goes with its last consumer or connection, and its tasks with it")
    if rules.vanishes:
        told.append("it is deleted after a time without use (expires), and its tasks with it")
    lost = "go to its dead letter exchange" if rules.keeps_dead else "are dropped"
    if rules.bounded and rules.overflow == "drop-head":
        told.append(
            f"it is bounded and drops from its head: when it is full, its oldest tasks {lost}, confirmed as they are"
        )
    if rules.expires:
        told.append(f"its messages expire (message-ttl): tasks that wait for too long {lost}")
    check = f"after the confirm in {queue}"
    if not told:
        return Finding(check, Verdict.OK, "durable, and it drops nothing by itself")
    todo = "see its arguments and policies; overflow reject-publish refuses new tasks, which then wait in the spool"
    return Finding(check, Verdict.WARNING, "; ".join(told), todo)
