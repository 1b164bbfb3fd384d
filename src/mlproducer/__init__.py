"""mlproducer gets machine-learning tasks from an application to the workers behind RabbitMQ, and loses none.

from mlproducer import Producer, Task

async with Producer() as producer:
    receipt = await producer.publish(Task(task_type="embed_vectors", payload={"share_id": "7", "content": "…"}))
"""

from mlproducer.delivery.stream import Refusal
from mlproducer.envelope.types import Route, TaskType
from mlproducer.errors import (
    BrokerError,
    InvalidTask,
    MLProducerError,
    NotAccepting,
    NotFound,
    RefusedTask,
    SettingsError,
    SpoolFull,
    SpoolUnavailable,
    TaskConflict,
    TaskTooLarge,
)
from mlproducer.settings import Settings
from mlproducer.status import Health, Status
from mlproducer.task import Receipt, Task, TaskState
from mlproducer.wiring import Producer

__all__ = [
    "BrokerError",
    "Health",
    "InvalidTask",
    "MLProducerError",
    "NotAccepting",
    "NotFound",
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
]
