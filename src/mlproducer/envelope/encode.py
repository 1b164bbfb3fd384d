"""A task as Celery's message protocol 2 over AMQP 0-9-1, and back again for people.

The bytes of a message, and when each is made:

    properties   flags · content type · encoding · headers{ per route │ per task } · mode · priority · correlation id
                 └──── once, in the constructor ─────────────────────┘ └───────── encode, once a task ──────────┘
                 (a task without family, expiry and headers of its own differs from another one in its id alone: then
                 the rest is made once for each length of an id)
                 · expiration · message id · timestamp                  attempt_properties, once an attempt
    body         [[], kwargs, {"callbacks": null, …}]                   encode

Two headers are not what Celery's own client sends:

- `eta` is always null. The spool holds a task until it is due, and a worker that meets an eta, even a past one, puts
  the task on its own timer and raises its prefetch count.
- `argsrepr` and `kwargsrepr` hold names and no values. They cannot be left out: a worker that misses them makes its
  own `repr` of the arguments, for its log and its events, and content does not belong there.

`ignore_result` is left out, because newer workers would let it override the task's own.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pamqp import encode as amqp
from pamqp.commands import Basic
from pydantic_core import from_json, to_json

from mlproducer.envelope.arguments import Fields, arguments
from mlproducer.envelope.reserved import why_reserved
from mlproducer.envelope.shapes import chosen_backend
from mlproducer.errors import InvalidTask, TaskTooLarge
from mlproducer.task import Envelope, Task
from mlproducer.values.given import NEEDS_ZONE, NO_MOMENT
from mlproducer.values.limits import HALF_A_PAIR, dotted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlproducer.envelope.tenants import Tenants
    from mlproducer.envelope.types import Route, TaskType, TaskTypes

MAX_EXPIRATION_MS: Final = 2**32 - 1
"""49.7 days: the largest expiration of older RabbitMQs, whose timers had 32 bits. 3.10 takes up to ten years. Over a
larger one it closes the channel (406), and every task in flight on it becomes unsure."""

MAX_PROPERTIES: Final = 64 * 1024
"""Bytes. AMQP sends all properties in one frame (a body is split, a header is not), and RabbitMQ's default frame_max
is 128 KiB: half of it, so that no default broker refuses what we accepted."""

_EXPIRATION: Final = Basic.Properties.flags["expiration"]
_FLAGS: Final = sum(
    Basic.Properties.flags[name]
    for name in (
        "content_type",
        "content_encoding",
        "headers",
        "delivery_mode",
        "priority",
        "correlation_id",
        "message_id",
        "timestamp",
    )
)
_TIMELESS: Final = struct.pack(">H", _FLAGS)
_EXPIRING: Final = struct.pack(">H", _FLAGS | _EXPIRATION)
_CONTENT: Final = amqp.short_string("application/json") + amqp.short_string("utf-8")
_PERSISTENT: Final = 2

_BODY_HEAD: Final = b"[[],"
_BODY_TAIL: Final = b',{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]'

_U32: Final = struct.Struct(">I").pack
_U64: Final = struct.Struct(">Q").pack
_I64: Final = struct.Struct(">q").pack


def _key(name: str) -> bytes:
    return amqp.short_string(name)


_ID: Final = _key("id") + b"S"
_ROOT: Final = _key("root_id") + b"S"
_PARENT: Final = _key("parent_id")
_GROUP: Final = _key("group")
_GROUP_INDEX: Final = _key("group_index")
_EXPIRES: Final = _key("expires")
_NO_FAMILY: Final = _PARENT + b"V" + _GROUP + b"V" + _GROUP_INDEX + b"V"
_NO_EXPIRES: Final = _EXPIRES + b"V"
_MAX_GROUP_INDEX: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What all tasks of one type and backend share."""

    task_type: str
    queue: str
    headers: bytes
    fields: Fields
    usual: dict[tuple[int, int], tuple[bytes, bytes, bytes]] = field(default_factory=dict)
    """By length of the id and priority: what stands around the three ids in the properties of a usual task. At most
    128 lengths and 10 priorities, made when they are met."""


class Encoder:
    """Turns tasks into envelopes, from any thread; remembers nothing of a task but how long ids were.

    `origin` tells workers and their logs who sent a task, such as `mlproducer@host`. `max_bytes` bounds body and
    properties together (`ML_MAX_MESSAGE_BYTES`). Without `tenants` no task has one.
    """

    def __init__(self, types: TaskTypes, origin: str, max_bytes: int, tenants: Tenants | None = None) -> None:
        self._types = types
        self._tenants = tenants
        self._max_bytes = max_bytes
        self._prepared: dict[tuple[str, str | None], _Prepared] = {}
        for each in types:
            for backend, route in each.routes.items():
                prepared = _prepare(each, backend, route, origin)
                self._prepared[each.name, backend] = prepared
                if backend == each.preferred:
                    self._prepared[each.name, None] = prepared

    def encode(self, task: Task, carried: Mapping[str, str] | None = None) -> Envelope:
        """Check the whole task and encode it; `carried` are headers besides the task's own, such as a trace context.

        Raises: InvalidTask, naming the field at fault; TaskTooLarge. Then nothing was accepted.
        """
        prepared = self._prepared.get((task.task_type, task.backend))
        if prepared is not None and prepared.fields.shape is not None and task.backend is None:
            chosen = chosen_backend(task.payload)
            prepared = prepared if chosen is None else self._prepared.get((task.task_type, chosen))
        if prepared is None:
            raise self._types.refusal(task)
        body = b"".join((_BODY_HEAD, arguments(prepared.fields, task.payload), _BODY_TAIL))
        expires, eta = task.expires, task.eta
        expires_utc = None if expires is None else _utc(expires, "expires")
        eta_at = None if eta is None else _utc(eta, "eta").timestamp()
        headers = {**task.headers, **carried} if carried else task.headers
        properties = _properties(prepared, task, headers, expires_utc)
        if len(body) + len(properties) > self._max_bytes:
            raise _too_large(body, len(body) + len(properties), self._max_bytes)
        expires_at = None if expires_utc is None else expires_utc.timestamp()
        if eta_at is not None and expires_at is not None and expires_at <= eta_at:
            raise InvalidTask("is not after eta, so the task could never run", field="expires")
        tenant = "" if self._tenants is None else self._tenants.of(task.headers)
        return Envelope(task.id, prepared.task_type, prepared.queue, properties, body, expires_at, eta_at, tenant)


def attempt_properties(envelope: Envelope, message_id: bytes, now: float) -> bytes:
    """The whole property list of one attempt, flags first, as it goes into the content header frame.

    `now` is Unix time in seconds; `message_id` is 1 to 255 bytes of ASCII, unique per attempt. A task past its expiry
    gets expiration 0, on which the broker delivers it at once or drops it.
    """
    properties = envelope.properties
    attempt = bytes((len(message_id),)) + message_id + _U64(int(now))
    if envelope.expires_at is None:
        return properties + attempt
    left = max(0, int((envelope.expires_at - now) * 1000))
    if left > MAX_EXPIRATION_MS:
        # Too far off for the broker, and a smaller number would drop the task early: leave it to the `expires` header,
        # which the worker obeys, and take the flag back.
        return _TIMELESS + properties[2:] + attempt
    return properties + amqp.short_string(str(left)) + attempt


def describe(envelope: Envelope) -> dict[str, Any]:
    """What the worker would see, for people: Celery task, arguments, headers. Holds the whole content."""
    raw = attempt_properties(envelope, b"-", 0.0)
    properties = Basic.Properties()
    properties.unmarshal(int.from_bytes(raw[:2]), raw[2:])
    headers = dict(properties.headers or {})
    args, kwargs, _ = from_json(envelope.body)
    return {
        "task": headers.get("task"),
        "task_id": envelope.task_id,
        "task_type": envelope.task_type,
        "queue": envelope.routing_key,
        "priority": properties.priority,
        "eta": envelope.eta,
        "expires_at": envelope.expires_at,
        "size": envelope.size,
        "args": args,
        "kwargs": kwargs,
        "headers": headers,
    }


def parse_task(data: object) -> Task:
    """A task from JSON (bytes or text) or from a mapping. Raises: InvalidTask, naming every fault."""
    return Task.parse(data)


def _prepare(each: TaskType, backend: str, route: Route, origin: str) -> _Prepared:
    names = (info.serialization_alias or name for name, info in each.fields.model_fields.items())
    headers: dict[str, Any] = {
        "lang": "py",
        "task": route.celery_task,
        "shadow": None,
        "eta": None,
        "retries": 0,
        "timelimit": [None, None],
        "argsrepr": "()",
        "kwargsrepr": ("{" + ", ".join(f"{name!r}: ..." for name in names) + "}")[:1024],
        "origin": origin,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    return _Prepared(
        task_type=each.name,
        queue=route.queue,
        headers=amqp.field_table(headers)[4:],  # without its length, which depends on the task's part
        fields=Fields.of(each, backend),
    )


def _properties(prepared: _Prepared, task: Task, more: Mapping[str, str], expires: datetime | None) -> bytes:
    task_id = task.id.encode("ascii")
    if (
        expires is None
        and task.root_id is None
        and task.parent_id is None
        and task.group is None
        and task.group_index is None
        and not more
    ):
        key = (len(task_id), task.priority)
        before, between, after = prepared.usual.get(key) or _usual(prepared, *key)
        return before + task_id + between + task_id + after + task_id
    root = task_id if task.root_id is None else task.root_id.encode("ascii")
    headers = b"".join(
        (
            prepared.headers,
            _ID + _U32(len(task_id)) + task_id,
            _ROOT + _U32(len(root)) + root,
            _family(task),
            _NO_EXPIRES if expires is None else _EXPIRES + _long_string(expires.isoformat(), "expires"),
            _extra_headers(more),
        )
    )
    flags = _TIMELESS if expires is None else _EXPIRING
    return b"".join((_opened(flags, len(headers)), headers, _closed(task.priority, len(task_id)), task_id))


def _usual(prepared: _Prepared, length: int, priority: int) -> tuple[bytes, bytes, bytes]:
    """What stands before, between and after the ids, for ids of `length` bytes: id, root id, correlation id."""
    before = prepared.headers + _ID + _U32(length)
    between = _ROOT + _U32(length)
    after = _NO_FAMILY + _NO_EXPIRES
    opened = _opened(_TIMELESS, len(before) + length + len(between) + length + len(after))
    made = (opened + before, between, after + _closed(priority, length))
    prepared.usual[length, priority] = made
    return made


def _opened(flags: bytes, headers: int) -> bytes:
    """The properties up to the headers, which have this many bytes."""
    if headers > MAX_PROPERTIES:
        raise InvalidTask(
            f"{headers} bytes with Celery's own; all headers together may have {MAX_PROPERTIES}, because they "
            "travel in one frame",
            field="headers",
        )
    return flags + _CONTENT + _U32(headers)


def _closed(priority: int, length: int) -> bytes:
    """The properties after the headers, up to the bytes of the correlation id."""
    return bytes((_PERSISTENT, priority, length))


def _family(task: Task) -> bytes:
    """parent_id, group and group_index, each perhaps null."""
    index = task.group_index
    if index is not None and index > _MAX_GROUP_INDEX:
        raise InvalidTask(f"is over {_MAX_GROUP_INDEX}", field="group_index")
    return b"".join(
        (
            _PARENT,
            b"V" if task.parent_id is None else _long_string(task.parent_id, "parent_id"),
            _GROUP,
            b"V" if task.group is None else _long_string(task.group, "group"),
            _GROUP_INDEX,
            b"V" if index is None else b"l" + _I64(index),
        )
    )


def _extra_headers(headers: Mapping[str, str]) -> bytes:
    encoded = bytearray()
    for name, value in headers.items():
        reason = why_reserved(name)
        if reason is not None:
            raise InvalidTask(f"the name is taken: {reason}", field=dotted(("headers", name)))
        encoded += _key(name)
        encoded += _long_string(value, f"headers.{name}")
    return bytes(encoded)


def _long_string(text: str, field: str) -> bytes:
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise InvalidTask(HALF_A_PAIR, field=field) from None
    return b"S" + _U32(len(raw)) + raw


def _utc(moment: datetime, field: str) -> datetime:
    """In UTC, because not every ISO 8601 reader takes every offset; a naive time is no moment at all."""
    if not isinstance(moment, datetime):  # of a task that was copied with it, and so was never validated
        raise InvalidTask(NO_MOMENT, field=field)
    if moment.utcoffset() is None:
        raise InvalidTask(NEEDS_ZONE, field=field)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidTask("is out of range in UTC", field=field) from None


def _too_large(body: bytes, size: int, limit: int) -> TaskTooLarge:
    kwargs: dict[str, Any] = from_json(body)[1]
    largest = max(kwargs, key=lambda name: len(to_json(kwargs[name])), default=None)
    return TaskTooLarge(
        f"the message has {size} bytes and ML_MAX_MESSAGE_BYTES allows {limit}; send a reference to the content, "
        "split the task, or raise the setting (and the broker's max_message_size)",
        field="payload" if largest is None else dotted(("payload", largest)),
    )
