"""Header names that a caller may not set, because somebody on the way gives them a meaning."""

from __future__ import annotations

from typing import Final

_PROTOCOL: Final = frozenset(
    {
        "lang",
        "task",
        "id",
        "root_id",
        "parent_id",
        "group",
        "group_index",
        "retries",
        "eta",
        "expires",
        "timelimit",
        "argsrepr",
        "kwargsrepr",
        "origin",
        "shadow",
        "ignore_result",
        "replaced_task_nesting",
        "stamped_headers",
        "stamps",
        "compression",
    }
)
"""Read from the message by a worker (celery `worker/request.py`, `app/amqp.py`)."""

_CONTEXT: Final = frozenset(
    {
        "args",
        "kwargs",
        "callbacks",
        "errbacks",
        "chain",
        "chord",
        "called_directly",
        "is_eager",
        "correlation_id",
        "reply_to",
        "delivery_info",
        "properties",
        "hostname",
        "headers",
        "logfile",
        "loglevel",
        "taskset",
        "time_limit",
        "soft_time_limit",
        "utc",
        "groups",
        "meth",
        "update",
        "clear",
        "get",
        "children",
        "as_execution_options",
    }
)
"""A worker copies every header into the attributes of `Task.request` (celery `app/task.py: Context`); one of these
would change or break the request."""

_BROKER: Final = frozenset({"cc", "bcc"})
"""RabbitMQ routes a copy to what they list, and closes the channel if they are no lists. Any case, to be safe."""

_BROKER_PREFIXES: Final = ("x-death", "x-first-death", "x-last-death", "x-delivery", "x-acquired", "x-opt-", "x-match")
"""Written or read by RabbitMQ's queues and exchanges."""


def why_reserved(name: str) -> str | None:
    """Who uses the header `name`, in words; None if it is free."""
    if name in _PROTOCOL:
        return "part of Celery's message protocol"
    if name in _CONTEXT or name.startswith("_"):
        return "an attribute of the worker's task request"
    lower = name.lower()
    if lower in _BROKER or lower.startswith(_BROKER_PREFIXES):
        return "RabbitMQ acts on it"
    return None
