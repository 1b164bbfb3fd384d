"""What a worker must find, and what was found, each as a digest: the judge compares no more than these.

`expected` is written from Celery's message protocol 2 and from what the known workers take, and shares no line with the
encoder: were it made by the engine that is on trial, it would be as wrong as the message. A digest is over

    where     queue, exchange, routing key
    how       content type and encoding, delivery mode, priority, and whether it expires
    headers   all of them, but for those that the broker adds; of `origin`, which names the host, only that it is there
    body      its JSON, or its bytes if it is none

and not over what is an attempt's own: the message id, the timestamp, the time that is left until it expires.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from pamqp.commands import Basic

from mlproducer.task import Task

EXCHANGE: Final = "ml.tasks"
NO_ID: Final = "?"
"""Of a message that says nowhere which task it is."""
_BROKERS_OWN: Final = frozenset({"x-delivery-count", "x-acquired-count"})
"""Headers that a quorum queue adds to a message that was delivered before."""
_EXPIRATION: Final = 1 << 8
"""AMQP 0-9-1's flag for the property `expiration`."""


class Message(NamedTuple):
    """Of one task, found in one place."""

    task_id: str
    digest: str


class Worker(NamedTuple):
    """What the workers of a task type read. `content` and `options` are what they take for granted."""

    celery_task: str
    queue: str
    text: str = ""
    """The field of `content` that a bare text is put into; empty: the payload goes to the worker as it is."""
    content: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}

    def arguments(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        if not self.text:
            return dict(payload)
        options = {**self.options, "backend": "api"}
        content = {self.text: payload["content"], **self.content}
        return {"share_id": payload["share_id"], "content": content, "options": options}


WORKERS: Final[Mapping[str, Worker]] = {
    "embed_vectors": Worker(
        "vector_service.tasks.generate_embeddings",
        "ml.embed",
        "text",
        {"type": "caption", "metadata": {}},
        {"embedding_type": "content"},
    ),
    "summarize_llm": Worker("llm_service.tasks.summarize_content", "ml.summarize", "text"),
}


def expected(task: Task, worker: Worker | None = None) -> str:
    """The digest of the task's message. `worker` is for types that are not in `WORKERS`."""
    worker = worker or WORKERS[task.task_type]
    arguments = worker.arguments(task.payload)
    family = {"parent_id": task.parent_id, "group": task.group, "group_index": task.group_index}
    headers: dict[str, Any] = {
        "lang": "py",
        "task": worker.celery_task,
        "id": task.id,
        "root_id": task.root_id or task.id,
        **family,
        "shadow": None,
        "eta": None,
        "expires": None if task.expires is None else task.expires.astimezone(UTC).isoformat(),
        "retries": 0,
        "timelimit": [None, None],
        "argsrepr": "()",
        "kwargsrepr": "{" + ", ".join(f"{name!r}: ..." for name in arguments) + "}",
        "origin": True,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        **task.headers,
    }
    kin = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    how = ["application/json", "utf-8", 2, task.priority, task.expires is not None, task.id]
    return _digest([worker.queue, EXCHANGE, worker.queue], how, headers, [[], arguments, kin])


def found(queue: str, exchange: str, routing_key: str, properties: Basic.Properties, body: bytes) -> Message:
    """What lies in `queue`."""
    headers = {name: value for name, value in (properties.headers or {}).items() if name not in _BROKERS_OWN}
    task_id = str(headers.get("id") or properties.correlation_id or NO_ID)
    if "origin" in headers:
        headers["origin"] = bool(headers["origin"])
    how = [
        properties.content_type,
        properties.content_encoding,
        properties.delivery_mode,
        properties.priority,
        properties.expiration is not None,
        properties.correlation_id,
    ]
    try:
        content = json.loads(body)
    except ValueError:  # also what is not UTF-8
        content = {"no JSON": body.hex()}
    return Message(task_id, _digest([queue, exchange, routing_key], how, headers, content))


def kept(task_id: str, routing_key: str, properties: bytes, body: bytes) -> Message:
    """What lies in a spool, as the message that will be made of it. `properties` end before what is an attempt's own:
    how long until it expires, its message id, its timestamp.
    """
    own = b"\1-" + bytes(8)
    flags = int.from_bytes(properties[:2])
    whole = Basic.Properties()
    try:
        whole.unmarshal(flags, properties[2:] + (b"\x010" if flags & _EXPIRATION else b"") + own)
    except Exception:  # noqa: BLE001  # whatever pamqp raises of bytes that are no properties
        whole = Basic.Properties()
    message = found(routing_key, EXCHANGE, routing_key, whole, body)
    # A row is leased, shown and settled by its column: a message of another id is not this task's.
    return message if message.task_id == task_id else Message(task_id, "of another task")


def _digest(*parts: object) -> str:
    text = json.dumps(parts, sort_keys=True, default=_plain)
    return blake2b(text.encode(errors="surrogatepass"), digest_size=12).hexdigest()


def _plain(value: object) -> str:
    """What AMQP's tables hold beside JSON."""
    return value.isoformat() if isinstance(value, datetime) else repr(value)
