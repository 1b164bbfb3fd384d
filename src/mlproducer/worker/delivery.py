"""What Celery says of the message that it is running, and when it is through with it.

Celery is never imported here: a process that runs tasks has it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

_TURNS: Final = 1 << 16
"""More than the retries of any task."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of a task's message to a worker."""

    task_id: str
    task: str
    turn: int
    """How often the task was sent again on purpose, under its own id: by `replace`, and by `retry` since then. Copies
    that nobody meant to make are of the same turn."""
    redelivered: bool
    """The broker has delivered this very message before: its worker died, or lost its connection."""
    acks_late: bool
    """The message stays with the broker until the task has ended."""
    time_limit: float | None
    """Seconds that the worker gives the task, soft or hard, whichever is shorter."""
    request: Any
    """Celery's own `Task.request`."""


def current_delivery() -> Delivery | None:
    """None outside of a worker, or where a task's function is called by hand or eagerly: then there is no message."""
    task = current_task()
    request = None if task is None else task.request
    if request is None or request.id is None or request.called_directly or request.is_eager:
        return None
    limits = tuple(request.timelimit or ()) or (None, None)
    hard, soft = (sent or own for sent, own in zip(limits, (task.time_limit, task.soft_time_limit), strict=True))
    return Delivery(
        task_id=str(request.id),
        task=str(task.name),
        turn=int(request.replaced_task_nesting or 0) * _TURNS + int(request.retries or 0),
        redelivered=bool((request.delivery_info or {}).get("redelivered")),
        acks_late=bool(task.acks_late),
        time_limit=min((limit for limit in (hard, soft) if limit), default=None),
        request=request,
    )


def listen(succeeded: Callable[[Any], None], ended: Callable[[Any], None]) -> bool:
    """Have both called with a task's request: when Celery has stored its result and sent what comes after it; and at
    the end, however it ended. False where Celery is not loaded yet; saying it twice is saying it once.
    """
    if "celery" not in sys.modules:
        return False
    from celery import signals  # noqa: PLC0415  # it is loaded already

    def on_success(sender: Any, **_facts: object) -> None:  # noqa: ANN401  # a Celery task
        succeeded(sender.request)

    def on_end(sender: Any, **_facts: object) -> None:  # noqa: ANN401  # a Celery task
        ended(sender.request)

    signals.task_success.connect(on_success, weak=False, dispatch_uid="mlproducer.once.success")
    signals.task_postrun.connect(on_end, weak=False, dispatch_uid="mlproducer.once.end")
    return True


def is_retry(error: object) -> bool:
    """True for what `self.retry()` raises, or returns if told not to raise."""
    exceptions = sys.modules.get("celery.exceptions")
    return exceptions is not None and isinstance(error, exceptions.Retry)


def ignored(reason: str) -> Exception:
    """Raised from a task: it is acked, its result is not touched, and nothing that was to follow it is sent."""
    from celery.exceptions import Ignore  # noqa: PLC0415  # it is loaded already

    error: Exception = Ignore(reason)
    return error


def put_back(reason: str) -> Exception:
    """Raised from a task that acks late: the message goes back to its queue."""
    from celery.exceptions import Reject  # noqa: PLC0415  # it is loaded already

    error: Exception = Reject(reason, requeue=True)
    return error


def current_task() -> Any:  # noqa: ANN401  # a Celery task
    """Celery's task that runs now; None outside of one."""
    celery = sys.modules.get("celery")
    if celery is None:
        return None
    found = celery.current_task
    return found._get_current_object() if found else None  # noqa: SLF001  # the task behind Celery's proxy
