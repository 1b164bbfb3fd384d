"""What operators and their tools ask: metrics, health, the retry queue, and two actions."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import PlainTextResponse

from mlproducer.core.verdict import Code, Level
from mlproducer.delivery.views import waiting_view, waiting_whole
from mlproducer.http.auth import require_caller
from mlproducer.http.describe import GUARDED, problems, success
from mlproducer.http.holder import get_producer
from mlproducer.http.problems import ProblemRoute
from mlproducer.http.views import answer
from mlproducer.status import Check, CheckStatus, Status
from mlproducer.wiring import Producer

ProducerOf = Annotated[Producer, Depends(get_producer)]
Limit = Annotated[int, Query(ge=1, le=1_000)]
Offset = Annotated[int, Query(ge=0)]

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


@dataclass(frozen=True, slots=True)
class KnownStatus:
    """What clients of the known service read. States are in capitals, such as CONNECTED."""

    connectionState: str  # noqa: N815  # their own name, as the next ones
    reconnectAttempts: int  # noqa: N815
    consecutiveFailures: int  # noqa: N815
    circuitBreakerOpen: bool  # noqa: N815
    retryQueueSize: int  # noqa: N815
    pendingConfirms: int  # noqa: N815


@dataclass(frozen=True, slots=True)
class CauseView:
    """One thing that is wrong. `since` in seconds; `about` names the route or the queue; `todo` what mends it."""

    code: Code
    level: Level
    new_tasks: str
    title: str
    text: str
    todo: str
    about: str
    since: float | None


@dataclass(frozen=True, slots=True)
class HealthView:
    """`Health.as_dict`. `healthy`: new tasks are confirmed directly. `causes`: all that is wrong, the worst first."""

    status: CheckStatus
    healthy: bool
    summary: str
    level: Level
    new_tasks: str
    checks: tuple[Check, ...]
    causes: tuple[CauseView, ...]


@dataclass(frozen=True, slots=True)
class KnownHealth:
    """`healthy`: new tasks are confirmed directly."""

    healthy: bool
    rabbitmq: KnownStatus


@open_router.get("/api/ml/metrics/json", responses=success(200, "these, and every metric by name", KnownStatus))
async def metrics_json(producer: ProducerOf) -> Response:
    """The same metrics, as JSON."""
    return answer(producer.metrics.json())


@open_router.get(
    "/api/ml/analytics/health", responses=success(200, "whether or not it is healthy: `healthy` says it", KnownHealth)
)
async def known_health(producer: ProducerOf) -> Response:
    """Health in the form of the known service. `/api/ml/health` says why."""
    document = producer.metrics.json()
    rabbitmq = {each.name: document[each.name] for each in fields(KnownStatus)}
    return answer({"healthy": producer.is_healthy(), "rabbitmq": rabbitmq})


@open_router.get(
    "/api/ml/health",
    responses={
        **success(200, "`ok`, or `degraded`: tasks are accepted, and something wants a look", HealthView),
        **success(503, "`failed`: unhealthy, new tasks are refused", HealthView),
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
    """200 if a new task would be accepted now: published, or spooled; with `ML_READY_WHEN=connected`, published.

    Answers from memory, so it may be asked every second.
    """
    status = producer.status()
    return answer({"ready": status.ready, "reasons": status.reasons}, 200 if status.ready else 503)


@router.get("/api/ml/status", responses=success(200, "sizes in bytes, times in (Unix) seconds", Status))
async def status(producer: ProducerOf) -> Response:
    """One moment of the producer: link, breaker, spool, in flight."""
    return answer(producer.status().as_dict())


@router.get("/api/ml/retry-queue", responses=problems(422, 503))
async def retry_queue(producer: ProducerOf, limit: Limit = 100, offset: Offset = 0) -> Response:
    """Tasks that wait in the spool, by when they are due, without their content: attempts, next due, last error."""
    found = await producer.waiting(limit=limit, offset=offset)
    return answer({"tasks": [waiting_view(entry) for entry in found], "limit": limit, "offset": offset})


@router.get("/api/ml/retry-queue/{task_id:path}", responses=problems(404, 422, 503))
async def waiting_task(task_id: str, producer: ProducerOf) -> Response:
    """One task that waits, with its history, and its content as the worker would see it."""
    return answer(waiting_whole(await producer.waiting_task(task_id)))


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
