"""Publishing over HTTP, and looking a task up."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated, Final
from urllib.parse import quote
from uuid import UUID, uuid5

from fastapi import APIRouter, Depends, Header, Request, Response

from mlproducer.envelope.encode import parse_task
from mlproducer.errors import NotAccepting
from mlproducer.http.auth import require_caller
from mlproducer.http.batch import Batch, Duplex
from mlproducer.http.body import NDJSON, read_json_body, require_media_type
from mlproducer.http.describe import GUARDED, body, lines, problems, success
from mlproducer.http.holder import get_producer, get_stopping
from mlproducer.http.problems import ProblemRoute
from mlproducer.http.views import answer, receipt_view
from mlproducer.task import Receipt, Task
from mlproducer.wiring import Producer

IDEMPOTENCY: Final = UUID("6f1d3c52-0b1e-5a55-9d0e-5d6c1f6f2a77")
"""The namespace of task ids that are made of idempotency keys. Never change it: the ids of tasks hang on it."""

router = APIRouter(route_class=ProblemRoute, tags=["tasks"], dependencies=[Depends(require_caller)], responses=GUARDED)


@router.post(
    "/api/ml/tasks",
    status_code=201,
    openapi_extra=body(Task),
    responses={
        **success(201, "confirmed: RabbitMQ routed it to a durable queue", Receipt),
        **success(202, "spooled: safe on this machine, and published as soon as the broker takes it", Receipt),
        **problems(409, 413, 415, 422, 503),
    },
)
async def publish(
    request: Request,
    producer: Annotated[Producer, Depends(get_producer)],
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> Response:
    """Publish one task. 201: RabbitMQ confirmed it. 202: it is in the durable spool.

    With an `Idempotency-Key`, the same key gives the same task id, so a call that is made again publishes once.
    """
    task = parse_task(await read_json_body(request, producer.settings.ml_max_body_bytes))
    if idempotency_key is not None and "id" not in task.model_fields_set:
        task = _with_id(task, str(uuid5(IDEMPOTENCY, idempotency_key)))
    receipt = await producer.publish(task)
    status = HTTPStatus.CREATED if receipt.confirmed else HTTPStatus.ACCEPTED
    place = f"/api/ml/tasks/{quote(receipt.task_id, safe='')}"
    return answer(receipt_view(receipt), status, {"Location": place})


@router.post(
    "/api/ml/tasks/batch",
    openapi_extra=lines("One task a line, as POST /api/ml/tasks takes it."),
    responses={
        200: {"description": "one answer a line", "content": {NDJSON: {"schema": {"type": "string"}}}},
        **problems(415, 503),
    },
)
async def publish_batch(
    request: Request,
    producer: Annotated[Producer, Depends(get_producer)],
    stopping: Annotated[asyncio.Event, Depends(get_stopping)],
) -> Response:
    """Publish a stream: one task a line (NDJSON), one answer a line, each with the number of the line it answers.

    Answers come in the order in which tasks settle, and while the stream is still being sent: read while you write.
    A line that is wrong fails alone, as `{"line": n, "error": {…}}`. If the stream has to end early, a last answer
    without `line` says why; lines that have no answer were then not accepted.
    """
    require_media_type(request, NDJSON)
    if not producer.status().accepting:
        raise NotAccepting("the service is starting or stopping; send the batch again in a moment")
    return Duplex(Batch(producer, producer.settings.ml_max_message_bytes, stopping), request, NDJSON)


@router.get(
    "/api/ml/tasks/{task_id:path}",
    responses={**success(200, "where the task is", Receipt), **problems(404, 422, 503)},
)
async def receipt(task_id: str, producer: Annotated[Producer, Depends(get_producer)]) -> Response:
    """The receipt of a task: its state, attempts, last error and times (Unix seconds)."""
    return answer(receipt_view(await producer.receipt(task_id)))


def _with_id(task: Task, task_id: str) -> Task:
    return task.model_copy(update={"id": task_id})
