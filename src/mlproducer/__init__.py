"""mlproducer gets machine-learning tasks from an application to the workers behind RabbitMQ, and loses none.

from mlproducer import Producer, Task

async with Producer() as producer:
    receipt = await producer.publish(Task(task_type="embed_vectors", payload={"share_id": "7", "content": "…"}))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mlproducer.delivery.stream import Refusal
    from mlproducer.envelope.types import Route, TaskType
    from mlproducer.errors import (
        BlobStoreUnavailable,
        BrokerError,
        InvalidTask,
        MLProducerError,
        NotAccepting,
        NotFound,
        NotInTime,
        NoTransaction,
        RefusedTask,
        SettingsError,
        SpoolFull,
        SpoolUnavailable,
        TaskConflict,
        TaskTooLarge,
        WrongLoop,
    )
    from mlproducer.outbox import Outbox
    from mlproducer.rows import DeadFilter
    from mlproducer.settings import Settings
    from mlproducer.status import Health, Status
    from mlproducer.task import Receipt, Task, TaskState
    from mlproducer.wiring import Producer

__all__ = [
    "BlobStoreUnavailable",
    "BrokerError",
    "DeadFilter",
    "Health",
    "InvalidTask",
    "MLProducerError",
    "NoTransaction",
    "NotAccepting",
    "NotFound",
    "NotInTime",
    "Outbox",
    "Producer",
    "Receipt",
    "Refusal",
    "RefusedTask",
    "Route",
    "Settings",
    "SettingsError",
    "SpoolFull",
    "SpoolUnavailable",
    "Status",
    "Task",
    "TaskConflict",
    "TaskState",
    "TaskTooLarge",
    "TaskType",
    "WrongLoop",
]

# A name is imported when it is first asked for: a Celery worker that imports `mlproducer.worker` has neither the
# engine's dependencies nor the time to load them.
_ELSEWHERE: Final = {
    "DeadFilter": "ports",
    "Health": "status",
    "Outbox": "outbox",
    "Producer": "wiring",
    "Receipt": "task",
    "Refusal": "delivery.stream",
    "Route": "envelope.types",
    "Settings": "settings",
    "Status": "status",
    "Task": "task",
    "TaskState": "task",
    "TaskType": "envelope.types",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, 'errors')}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
