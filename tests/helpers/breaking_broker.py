"""Engines that are broken on purpose: the real one, whose link does to every fifth message what it must not.

For the judge, who must see each of these.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from mlproducer.amqp.broker import AmqpBroker
from mlproducer.amqp.config import AmqpConfig
from mlproducer.envelope.types import TaskTypes
from mlproducer.errors import BrokerError
from mlproducer.outcome import Confirmed
from mlproducer.ports import Listener, Settle
from mlproducer.settings import Settings
from mlproducer.task import Envelope
from mlproducer.wiring import Overrides, SystemClock

EVERY: Final = 5
Publish = Callable[[Envelope, Settle], None]
Break = Callable[[Publish, Envelope, Envelope, Settle], None]
"""What becomes of a message: given the way to publish, the one before it, itself, and who waits for its outcome."""


def _altered(change: Callable[[Envelope, Envelope], dict[str, object]]) -> Break:
    def send(publish: Publish, before: Envelope, envelope: Envelope, settle: Settle) -> None:
        publish(msgspec.structs.replace(envelope, **change(before, envelope)), settle)

    return send


def _replaced(envelope: Envelope, old: bytes, new: bytes) -> dict[str, object]:
    """The properties, with one thing for another of the same length."""
    assert old in envelope.properties
    assert len(old) == len(new)
    return {"properties": envelope.properties.replace(old, new)}


def _swallowed(publish: Publish, before: Envelope, envelope: Envelope, settle: Settle) -> None:
    del publish, before, envelope
    settle(Confirmed())


def _twice(publish: Publish, before: Envelope, envelope: Envelope, settle: Settle) -> None:
    del before
    publish(envelope, lambda _: None)
    publish(envelope, settle)


def _with_a_stranger(publish: Publish, before: Envelope, envelope: Envelope, settle: Settle) -> None:
    del before
    other = envelope.task_id[::-1]
    stranger = _replaced(envelope, envelope.task_id.encode(), other.encode())
    publish(msgspec.structs.replace(envelope, task_id=other, **stranger), lambda _: None)
    publish(envelope, settle)


ALTERED: Final[dict[str, Break]] = {
    "body-of-another": _altered(lambda before, _: {"body": before.body}),
    "empty-body": _altered(lambda *_: {"body": b" "}),  # with no byte at all RabbitMQ closes the connection
    "empty-arguments": _altered(lambda *_: {"body": b"[[],{},{}]"}),
    "half-a-body": _altered(lambda _, envelope: {"body": envelope.body[: len(envelope.body) // 2]}),
    "a-word-of-the-body": _altered(lambda _, envelope: {"body": envelope.body.replace(b"promise", b"premise", 1)}),
    "a-lost-argument": _altered(lambda _, envelope: {"body": envelope.body.replace(b',"metadata":{}', b"", 1)}),
    "a-lost-header": _altered(lambda _, envelope: _replaced(envelope, b"\x07root_id", b"\x07toor_id")),
    "another-task": _altered(lambda _, envelope: _replaced(envelope, b"generate_embeddings", b"degenerate_embeddin")),
    "not-persistent": _altered(
        lambda _, envelope: _replaced(
            envelope,
            bytes((2, 0, len(envelope.task_id))) + envelope.task_id.encode(),
            bytes((1, 0, len(envelope.task_id))) + envelope.task_id.encode(),
        )
    ),
    "headers-of-another": _altered(lambda before, _: {"properties": before.properties}),
    "another-queue": _altered(lambda *_: {"routing_key": "ml.summarize"}),
}
SWALLOWED: Final[Break] = _swallowed
TWICE: Final[Break] = _twice
WITH_A_STRANGER: Final[Break] = _with_a_stranger


class BreakingBroker(AmqpBroker):
    breaks: Break
    count = 0
    before: Envelope | None = None

    def publish(self, envelope: Envelope, settle: Settle, *, deadline: float, alone: bool = False) -> None:
        self.count += 1
        before, self.before = self.before, envelope
        send = partial(super().publish, deadline=deadline, alone=alone)
        if before is None or self.count % EVERY:
            send(envelope, settle)
        else:
            type(self).breaks(send, before, envelope, settle)


def breaking(settings: Settings, breaks: Break) -> Overrides:
    kind = type("Breaking", (BreakingBroker,), {"breaks": staticmethod(breaks)})

    def broker(lost: Callable[[BrokerError], None], tell: Listener) -> BreakingBroker:
        config = AmqpConfig.from_settings(settings, TaskTypes.chosen(settings).plans, credentials=None)
        made: BreakingBroker = kind(config, SystemClock(), tell, lost)
        return made

    return Overrides(broker=broker)
