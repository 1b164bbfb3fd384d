"""The Celery application: the tasks that mlproducer's built-in task types name, on the queues it publishes to.

    celery -A examples.worker.app worker          (from the project's folder; `mlproducer quickstart` does it for you)

`RABBITMQ_URL`, `ML_EXCHANGE`: as for the producer. `ML_WORKER_RESULTS`: a file to which each finished task appends
one JSON line; without it, results are only logged.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from celery import Celery, Task
from celery.worker.consumer import Consumer
from examples.worker.sound import Measured, measure, resolve
from examples.worker.summary import summarize
from examples.worker.vectors import DIMENSIONS, embed
from kombu.entity import Exchange, Queue

if TYPE_CHECKING:
    from collections.abc import Callable

JsonDict = dict[str, Any]
QUEUES = ("ml.summarize", "ml.summarize_local", "ml.transcribe", "ml.transcribe_local", "ml.embed")
URL = os.environ.get("RABBITMQ_URL") or "amqp://ml:ml_password@localhost:5672/"
RESULTS = os.environ.get("ML_WORKER_RESULTS")

# The very arguments that the producer declares: a queue declared twice with unequal ones is refused with 406. They
# also tell Celery (5.5 and later) that the queues are quorum queues, which need a prefetch limit per consumer.
_ARGUMENTS = {"x-queue-type": "quorum", "x-delivery-limit": 5}
_EXCHANGE = os.environ.get("ML_EXCHANGE") or "ml.tasks"


def _queue(name: str) -> Queue:
    exchange = Exchange(_EXCHANGE, type="topic", durable=True)  # type: ignore[no-untyped-call]  # kombu is half typed
    return Queue(name, exchange, routing_key=name, queue_arguments=_ARGUMENTS)  # type: ignore[no-untyped-call]  # too


class OwnQueuesConsumer(Consumer):  # type: ignore[misc]  # celery ships no types
    """Without the 28 queues in which Celery keeps delayed tasks: mlproducer keeps those in its spool."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]  # noqa: D106  # celery's own name for its steps
        default_steps = tuple(s for s in Consumer.Blueprint.default_steps if "delayed_delivery" not in s)


app = Celery("mlproducer-example-worker", broker=[url.strip() for url in URL.split(",")])
app.conf.update(
    worker_consumer="examples.worker.app:OwnQueuesConsumer",
    task_queues=[_queue(name) for name in QUEUES],
    task_default_queue=QUEUES[0],
    task_acks_late=True,  # with the producer's confirms: a task is somewhere until it is done
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    accept_content=["json"],
    worker_enable_remote_control=False,  # no queues of its own on somebody's broker
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_pool_limit=1,
    worker_prefetch_multiplier=4,
)


def append(line: JsonDict, path: str | None = RESULTS) -> None:
    """One line in one write to a file opened for appending, so that several processes never mix theirs."""
    if path is None:
        return
    data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, data)
    finally:
        os.close(handle)


def summarize_content(share_id: str, content: JsonDict, options: JsonDict | None = None) -> JsonDict:
    """`options.maxLength` bounds the summary, in characters; 200 by default."""
    found = summarize(content["text"], limit=int((options or {}).get("maxLength") or 200))
    return {
        "share_id": share_id,
        "summary": found.text,
        "method": "extractive (Luhn 1958), no language model",
        "characters": found.kept,
        "of": found.of,
    }


def embed_content(share_id: str, content: JsonDict, options: JsonDict | None = None) -> JsonDict:  # noqa: ARG001  # unused here
    vector = embed(content["text"])
    return {"share_id": share_id, "vector": vector, "dimensions": DIMENSIONS, "method": "hashed n-grams"}


def embed_many(tasks: list[JsonDict]) -> JsonDict:
    return {"vectors": [embed_content(**each) for each in tasks], "dimensions": DIMENSIONS}


def summarize_video(task_data: JsonDict) -> JsonDict:
    """Of what was said in the video and written about it."""
    told, options = task_data["payload"], task_data.get("options")
    text = "\n\n".join(part for part in (told.get("caption"), told.get("transcript")) if part)
    return summarize_content(task_data["shareId"], {"text": text}, options)


def measure_media(share_id: str, content: JsonDict, options: JsonDict | None = None) -> JsonDict:  # noqa: ARG001  # unused here
    """What can be measured of the recording; `transcript` is null, because there is no speech model here."""
    media = content["mediaUrl"]
    return {"share_id": share_id, "media": media, **describe(measure(resolve(media)))}


def describe(found: Measured) -> JsonDict:
    return {
        "transcript": None,
        "note": "the example worker has no speech model: it measures, and transcribes no words",
        "seconds": round(found.seconds, 3),
        "sample_rate": found.sample_rate,
        "rms_dbfs": round(found.rms_dbfs, 1),
        "peak_dbfs": round(found.peak_dbfs, 1),
        "speech_seconds": round(found.speech_seconds, 2),
        "segments": [{"start": round(s.start, 2), "end": round(s.end, 2)} for s in found.segments],
    }


TASKS: dict[str, Callable[..., JsonDict]] = {
    "llm_service.tasks.summarize_content": summarize_content,
    "llm_service.tasks.summarize_content_local": summarize_content,
    "whisper.tasks.transcribe_api": measure_media,
    "whisper.tasks.transcribe_local": measure_media,
    "vector_service.tasks.generate_embeddings": embed_content,
    "vector_service.tasks.generate_embeddings_batch": embed_many,
    "summarize_video_combined": summarize_video,
}


def _register(name: str, work: Callable[..., JsonDict]) -> None:
    def run(task: Task, **payload: object) -> JsonDict:
        """Do the work and note how it went. One that cannot be done is noted as failed, and raised to Celery."""
        started = time.perf_counter()
        note: JsonDict = {"task_id": task.request.id, "task": name, "at": time.time(), "pid": os.getpid()}
        try:
            result = work(**payload)
        except Exception as exc:
            append({**note, "state": "failed", "error": f"{type(exc).__name__}: {exc}"})
            raise
        append({**note, "state": "done", "seconds": round(time.perf_counter() - started, 6), "result": result})
        return result

    app.task(run, bind=True, name=name, shared=False)


for _name, _work in TASKS.items():
    _register(_name, _work)
