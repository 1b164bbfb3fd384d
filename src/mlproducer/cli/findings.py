"""What `doctor` says of what it finds: pure judgements in plain words, each with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from mlproducer.core.facts import Facts, LinkFacts, Room, SeenQueue
from mlproducer.core.verdict import Code, Level, judge, unread
from mlproducer.envelope.types import TaskTypes
from mlproducer.settings import Settings
from mlproducer.status import BrokerFacts, FoundQueue

_BROKER_LIMITS: Final = ((4, 16 << 20), (3, 128 << 20))
"""RabbitMQ's default `max_message_size` in bytes, by major version; it tells no client what it is set to."""


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """Tasks will be accepted, and something else than expected may become of them."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """`todo` names the setting or the step; empty where nothing is to be done."""

    check: str
    verdict: Verdict
    detail: str
    todo: str = ""


_VERDICTS: Final = {Level.AMBER: Verdict.WARNING, Level.RED: Verdict.FAILED}
_OF_SPOOL: Final = frozenset({Code.SPOOL_FULL, Code.SPOOL_FILLS, Code.DEAD})


def of_exchange(facts: BrokerFacts, settings: Settings) -> Finding:
    name = settings.ml_exchange
    if facts.exchange_exists and not facts.exchange_problem:
        return Finding("exchange", Verdict.OK, f"{name} is there")
    if facts.exchange_exists:
        detail = f"{name} is there and differs: {facts.exchange_problem}. It is used as it is"
        return Finding("exchange", Verdict.WARNING, detail, "ML_EXCHANGE names another one")
    if settings.ml_declare_topology:
        when = "when it connects" if any(queue.named for queue in facts.queues) else "with the first task"
        return Finding("exchange", Verdict.OK, f"{name} is not there yet; the producer makes it {when}")
    todo = "make it, correct ML_EXCHANGE, or let the producer make it (ML_DECLARE_TOPOLOGY=true)"
    return Finding("exchange", Verdict.FAILED, f"there is no exchange {name}: nothing could be published", todo)


def of_queues(facts: BrokerFacts, settings: Settings) -> Iterator[Finding]:
    """For each queue: is it there, is it as we would make it, does anybody read it."""
    some = any(queue.exists for queue in facts.queues)
    for queue in facts.queues:
        yield _of_queue(queue, needed=queue.named or not some)
        if queue.exists and not queue.consumers and queue.name != settings.ml_dlq_queue:
            cause = unread(SeenQueue(queue.name, queue.messages))
            detail = cause.text.removeprefix(f"{queue.name}: ")
            yield Finding(f"worker of {queue.name}", Verdict.WARNING, detail, cause.todo)
        elif queue.consumers:
            readers = "1 worker reads it" if queue.consumers == 1 else f"{queue.consumers} consumers read it"
            yield Finding(f"worker of {queue.name}", Verdict.OK, f"{readers}, {queue.messages:,} tasks wait")


def _of_queue(queue: FoundQueue, *, needed: bool) -> Finding:
    """`needed`: the settings name it, or there is no queue at all. Of a built-in type, nobody need ever use it."""
    check = f"queue {queue.name}"
    if not queue.exists and queue.made:
        when = "when it connects" if queue.named else "with its first task"
        return Finding(check, Verdict.OK, f"not there yet; the producer makes and binds it {when}, as {queue.made}")
    if not queue.exists:
        detail = "not there: its tasks would be returned as unroutable and end in the dead letter queue"
        todo = "make it and bind it by its name, or let the producer make it (ML_DECLARE_TOPOLOGY=true, declare = true)"
        if needed:
            return Finding(check, Verdict.FAILED, detail, todo)
        return Finding(check, Verdict.WARNING, detail, f"nothing, if nobody uses it (ML_BUILTIN_TYPES=no); else {todo}")
    if queue.differs:
        detail = f"{queue.differs}. It is used as it is, and never changed"
        todo = (
            "nothing, if that is meant; a route of one's own may say so (queue_type, arguments in ML_TASK_TYPES); to "
            "have it as ours: empty it, delete it, and let the producer make it"
        )
        return Finding(check, Verdict.WARNING, detail, todo)
    return Finding(check, Verdict.OK, "as we would make it" if queue.made else "there, and left to others")


def of_size(facts: BrokerFacts, settings: Settings) -> Finding:
    largest = settings.ml_max_message_bytes
    major = int(found) if (found := facts.version.partition(".")[0]).isdecimal() else 0
    limit = next((size for version, size in _BROKER_LIMITS if major >= version), None)
    if limit is None:
        return Finding("size limit", Verdict.OK, f"{largest:,} bytes; what this broker takes is not known")
    detail = f"messages up to {largest:,} bytes; {facts.product} {facts.version} takes {limit:,} unless set otherwise"
    if largest > limit:
        todo = "lower ML_MAX_MESSAGE_BYTES (ML_BLOB_URL takes larger payloads), or raise the broker's max_message_size"
        return Finding("size limit", Verdict.WARNING, f"{detail}: larger ones would be refused by it", todo)
    return Finding("size limit", Verdict.OK, detail)


def of_alarm(facts: BrokerFacts) -> Iterator[Finding]:
    """Whether it would take anything now."""
    alarm = facts.blocked
    for cause in judge(Facts(link=LinkFacts(blocked=bool(alarm), alarm=alarm, node=facts.node))).causes:
        yield Finding("broker alarm", _VERDICTS[cause.level], cause.text, cause.todo)


def of_spool(room: Room, detail: str, *, reached: bool) -> Finding:
    """As a producer with this spool would judge; without a broker that is reached, a full one refuses every task."""
    link = LinkFacts(connected=reached, error="" if reached else "not reached")
    causes = [cause for cause in judge(Facts(link=link, room=room)).causes if cause.code in _OF_SPOOL]
    if not causes:
        return Finding("spool", Verdict.OK, f"can be written: {detail}")
    verdict = Verdict.FAILED if any(cause.code is Code.SPOOL_FULL for cause in causes) else Verdict.WARNING
    words = "; ".join(cause.text for cause in causes)
    return Finding("spool", verdict, f"{detail}: {words}", causes[0].todo)


def of_types(types: TaskTypes) -> Finding:
    routes = [
        f"{each.name} → {each.routes[each.preferred].celery_task} on {each.routes[each.preferred].queue}"
        for each in types
    ]
    return Finding("task types", Verdict.OK, "; ".join(routes))


def of_login(settings: Settings) -> Finding:
    if ":ml_password@" in settings.rabbitmq_url.get_secret_value() and not all(
        node.startswith(("localhost:", "127.0.0.1:")) for node in settings.broker_nodes
    ):
        detail = "the broker's password is the default one, which is no secret"
        return Finding("broker login", Verdict.WARNING, detail, "set another one at the broker and in RABBITMQ_URL")
    how = "from RABBITMQ_URL" if settings.rabbitmq_auth == "plain" else "by certificate"
    return Finding("broker login", Verdict.OK, how)
