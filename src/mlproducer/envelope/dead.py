"""A dead letter as a message for a queue of the broker: the task unchanged, and in its headers why it died.

RabbitMQ writes `x-death` and `x-first-death-…` on what its own queues dead-letter, and tools read them; we write them
the same way, so that those tools work here too (RabbitMQ's documentation, "Dead-Lettered Effects on Messages").
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from pamqp.commands import Basic
from pamqp.common import FieldTable

from mlproducer.envelope.encode import attempt_properties
from mlproducer.task import Envelope

_REASONS: Final = {"nacked": "rejected", "expired": "expired"}
"""What RabbitMQ calls it, where it has a word; else our own word stands."""
_PER_ATTEMPT: Final = Basic.Properties.flags["message_id"] | Basic.Properties.flags["timestamp"]


def dead_copy(
    envelope: Envelope, *, queue: str, exchange: str, reason: str, code: int | None, text: str, attempts: int, at: float
) -> Envelope:
    """The message for `queue`. `at` is Unix seconds. Never expires: a dead letter is kept until a person looks."""
    raw = attempt_properties(envelope, b"-", 0.0)
    found = Basic.Properties()
    found.unmarshal(int.from_bytes(raw[:2]), raw[2:])
    word = _REASONS.get(reason, reason)
    death: FieldTable = {
        "count": max(1, attempts),
        "reason": word,
        "queue": envelope.routing_key,
        "time": datetime.fromtimestamp(int(at), UTC),
        "exchange": exchange,
        "routing-keys": [envelope.routing_key],
    }
    headers: FieldTable = {
        **(found.headers or {}),
        "x-death": [death],
        "x-first-death-reason": word,
        "x-first-death-queue": envelope.routing_key,
        "x-first-death-exchange": exchange,
        "x-ml-death-reason": reason,
        "x-ml-death-code": code,
        "x-ml-death-text": text,
        "x-ml-task-type": envelope.task_type,
    }
    kept = Basic.Properties(
        content_type=found.content_type,
        content_encoding=found.content_encoding,
        headers=headers,
        delivery_mode=found.delivery_mode,
        priority=found.priority,
        correlation_id=found.correlation_id,
    ).marshal()
    properties = (int.from_bytes(kept[:2]) | _PER_ATTEMPT).to_bytes(2) + kept[2:]
    return Envelope(envelope.task_id, envelope.task_type, queue, properties, envelope.body)
