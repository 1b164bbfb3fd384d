"""What operators and their tools ask: metrics, health, the retry queue, the dead letter queue, and two actions."""

from __future__ import annotations

import time
from typing import Annotated, Final, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlproducer.errors import NotFound
from mlproducer.http.auth import require_caller
from mlproducer.http.body import read_json_body
from mlproducer.http.describe import GUARDED, body, problems, success
from mlproducer.http.holder import get_producer
from mlproducer.http.problems import Fault, InvalidRequest, ProblemRoute, invalid
from mlproducer.http.views import answer, dead_view, dead_view_whole, row_view
from mlproducer.ports import DeadFilter
from mlproducer.status import CheckStatus, Health, Status
from mlproducer.task import Identifier
from mlproducer.wiring import Producer

PAGE: Final = 200
"""Dead letters read at once: with their content, at most 200 × 8 MiB, and in practice a few MiB."""
MAX_IDS: Final = 10_000

ProducerOf = Annotated[Producer, Depends(get_producer)]
Limit = Annotated[int, Query(ge=1, le=1_000)]
Offset = Annotated[int, Query(ge=0)]
Asked = TypeVar("Asked", bound=BaseModel)

open_router = APIRouter(route_class=ProblemRoute, tags=["operations"])
"""For scrapers and orchestrators: shows no task and takes no key."""
router = APIRouter(
    route_class=ProblemRoute, tags=["operations"], dependencies=[Depends(require_caller)], responses=GUARDED
)


@open_router.get(
    "/api/ml/metrics/prometheus",
    response_class=PlainTextResponse,
    responses={200: {"description": "the text format of Prometheus, or OpenMetrics"}},
)
async def metrics_prometheus(request: Request, producer: ProducerOf) -> Response:
    """Metrics in the Prometheus text format, or OpenMetrics where the scraper asks for it."""
    content, media_type = producer.metrics.prometheus(request.headers.get("accept"))
    return Response(content, headers={"Content-Type": media_type})


@open_router.get("/api/ml/metrics/json")
async def metrics_json(producer: ProducerOf) -> Response:
    """The same metrics, as JSON."""
    return answer(producer.metrics.json())


@open_router.get(
    "/api/ml/health",
    responses={
        **success(200, "`ok`, or `degraded`: tasks are accepted into the spool", Health),
        **success(503, "`failed`: new tasks are refused", Health),
    },
)
async def health(producer: ProducerOf) -> Response:
    """Each part's health, from what is known: asking costs the broker nothing. `degraded` still accepts tasks."""
    found = producer.health()
    return answer(found.as_dict(), 503 if found.status is CheckStatus.FAILED else 200)


@open_router.get("/api/ml/health/live")
async def live() -> Response:
    """200 as long as the process answers at all."""
    return answer({"status": "alive"})


@open_router.get("/api/ml/health/ready", responses={503: {"description": "not ready; `reasons` say why"}})
async def ready(producer: ProducerOf) -> Response:
    """200 if a new task would be accepted now: published, or spooled."""
    status = producer.status()
    return answer({"ready": status.ready, "reasons": status.reasons}, 200 if status.ready else 503)


@router.get("/api/ml/status", responses=success(200, "sizes in bytes, times in (Unix) seconds", Status))
async def status(producer: ProducerOf) -> Response:
    """One moment of the producer: link, breaker, spool, in flight."""
    return answer(producer.status().as_dict())


@router.get("/api/ml/retry-queue", responses=problems(422, 503))
async def retry_queue(producer: ProducerOf, limit: Limit = 100, offset: Offset = 0) -> Response:
    """Tasks that wait in the spool, by when they are due, without their content."""
    found = await producer.waiting(limit=limit, offset=offset)
    return answer({"tasks": [row_view(row) for row in found], "limit": limit, "offset": offset})


class Where(BaseModel):
    """Which dead letters; all given conditions must hold."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    task_type: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    reason: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    older_than_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    text: Annotated[str, Field(min_length=1, max_length=1_000)] | None = None

    def filter(self) -> DeadFilter:
        older = None if self.older_than_seconds is None else time.time() - self.older_than_seconds
        return DeadFilter(self.task_type, self.reason, older, self.text)

    @property
    def empty(self) -> bool:
        return (self.task_type, self.reason, self.older_than_seconds, self.text) == (None, None, None, None)


class Page(Where):
    limit: Annotated[int, Field(ge=1, le=1_000)] = 100
    offset: Annotated[int, Field(ge=0)] = 0


class Chosen(BaseModel):
    """Dead letters by their task ids."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    ids: Annotated[list[Identifier], Field(min_length=1, max_length=MAX_IDS)]


class Replay(Where):
    """Which dead letters to publish again: `ids`, or conditions, or `all`. `limit` bounds how many a call takes."""

    ids: Annotated[list[Identifier], Field(min_length=1, max_length=MAX_IDS)] | None = None
    all: bool = False
    dry_run: bool = False
    limit: Annotated[int, Field(ge=1, le=MAX_IDS)] = 1_000


@router.get("/api/ml/dlq", responses=problems(422, 503))
async def dlq(producer: ProducerOf, page: Annotated[Page, Query()]) -> Response:
    """The dead letter queue, newest first, without content."""
    found = await producer.dead_letters(page.filter(), limit=page.limit, offset=page.offset)
    rows = [dead_view(letter) for letter in found]
    return answer({"dead_letters": rows, "limit": page.limit, "offset": page.offset})


@router.get("/api/ml/dlq/{task_id:path}", responses=problems(404, 422, 503))
async def dead_letter(task_id: str, producer: ProducerOf) -> Response:
    """One dead letter with its content, as the worker would see it."""
    return answer(dead_view_whole(await producer.dead_letter(task_id)))


@router.post("/api/ml/dlq/replay", openapi_extra=body(Replay), responses=problems(413, 415, 422, 503))
async def replay(request: Request, producer: ProducerOf) -> Response:
    """Dead letters back into the retry queue. `dry_run` only counts them."""
    asked = await _read(request, producer, Replay)
    ways = (asked.ids is not None, not asked.empty, asked.all)
    if sum(ways) != 1:
        raise InvalidRequest([Fault("ids", "give either ids, or conditions (task_type, reason, …), or all: true")])
    ids = list(dict.fromkeys(asked.ids)) if asked.ids is not None else await _by_filter(producer, asked)
    if asked.dry_run:
        return answer({"matched": await _count(producer, ids), "replayed": 0, "dry_run": True})
    replayed = await producer.replay(ids) if ids else 0
    return answer({"matched": replayed, "replayed": replayed, "dry_run": False})


@router.delete("/api/ml/dlq", openapi_extra=body(Chosen), responses=problems(413, 415, 422, 503))
async def remove_many(request: Request, producer: ProducerOf) -> Response:
    """Remove dead letters for good. Ids that are not there are not counted."""
    asked = await _read(request, producer, Chosen)
    return answer({"removed": await producer.purge(list(dict.fromkeys(asked.ids)))})


@router.delete("/api/ml/dlq/{task_id:path}", responses=problems(404, 422, 503))
async def remove(task_id: str, producer: ProducerOf) -> Response:
    """Remove one dead letter for good."""
    if not await producer.purge([task_id]):
        raise NotFound("no dead letter has this id")
    return answer({"removed": 1})


@router.post("/api/ml/connection/reconnect", status_code=202)
async def reconnect(producer: ProducerOf) -> Response:
    """Close the link to the broker if there is one, and begin a fresh cycle of attempts at once."""
    producer.reconnect()
    return answer({"connection": producer.status().connection}, 202)


@router.post("/api/ml/circuit-breaker/reset")
async def reset_breaker(producer: ProducerOf) -> Response:
    """Close the circuit breaker by hand."""
    producer.reset_breaker()
    return answer({"breaker": producer.status().breaker})


async def _read(request: Request, producer: Producer, model: type[Asked]) -> Asked:
    raw = await read_json_body(request, producer.settings.ml_max_body_bytes)
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise invalid(error) from None


async def _count(producer: Producer, ids: list[str]) -> int:
    """How many of them are dead letters."""
    found = 0
    for task_id in ids:
        try:
            await producer.dead_letter(task_id)
        except NotFound:
            continue
        found += 1
    return found


async def _by_filter(producer: Producer, asked: Replay) -> list[str]:
    """Page by page. Tasks that die meanwhile push others into the next page again, hence the dict."""
    where = asked.filter()
    found: dict[str, None] = {}
    offset = 0
    while len(found) < asked.limit:
        page = await producer.dead_letters(where, limit=min(PAGE, asked.limit - len(found)), offset=offset)
        found.update(dict.fromkeys(letter.envelope.task_id for letter in page))
        offset += len(page)
        if not page:
            break
    return list(found)
