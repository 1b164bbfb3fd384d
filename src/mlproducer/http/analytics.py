"""Figures by hour and task type, costs and budgets; and the results that workers report.

Amounts of money are text, such as `"0.0042"`: a JSON number would pass through binary floating point in most clients.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Self

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mlproducer.analytics.views import view
from mlproducer.core.budget import Budget
from mlproducer.core.figures import Costs, Delivery, Hourly, Latency, Summary
from mlproducer.core.results import MOST_COST, ResultStatus, TaskResult
from mlproducer.http.auth import require_caller
from mlproducer.http.body import read_model
from mlproducer.http.describe import GUARDED, body, problems, success
from mlproducer.http.holder import get_producer
from mlproducer.http.problems import ProblemRoute
from mlproducer.http.views import answer
from mlproducer.task import Identifier
from mlproducer.wiring import Producer

ProducerOf = Annotated[Producer, Depends(get_producer)]
Hours = Annotated[int, Query(ge=1, le=720, description="The running hour of UTC and those before it.")]
Name = Annotated[str, Field(max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")]

router = APIRouter(
    route_class=ProblemRoute, tags=["analytics"], dependencies=[Depends(require_caller)], responses=GUARDED
)


class Result(BaseModel):
    """What a worker says of a task: how it ended (`status`), what it cost (`cost`), or both."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    task_id: Identifier
    task_type: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    task: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    """The name of the Celery task, where the worker does not know the task type."""
    status: ResultStatus | None = None
    duration: Annotated[float, Field(ge=0, le=10_000_000, allow_inf_nan=False)] | None = None
    """Seconds of work."""
    finished_at: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Unix seconds; now, if it is not given."""
    cost: Annotated[Decimal, Field(ge=0, le=MOST_COST, allow_inf_nan=False)] | None = None
    """As text, such as `"0.0042"`, without a currency; kept to 9 places."""
    model: Name = ""
    """Which model or service the cost is of."""
    part: Name = ""
    """Tells several costs of one task apart; each part counts once."""

    @field_validator("cost", mode="before")
    @classmethod
    def _no_float(cls, value: object) -> object:
        if value is not None and not isinstance(value, str):
            raise ValueError('give it as text, such as "0.0042": a number would lose digits')
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.task_type is None) == (self.task is None):
            raise ValueError("give either task_type or task, the name of the Celery task")
        if self.status is None and self.cost is None:
            raise ValueError("give status or cost, or both: else there is nothing to count")
        return self


@dataclass(frozen=True, slots=True)
class Reported:
    """What of the report was new; false for what was counted before, null for what it did not tell."""

    task_id: str
    finish: bool | None
    cost: bool | None


@router.get(
    "/api/ml/analytics/tasks/summary",
    responses={**success(200, "by task type, durations in seconds", Summary), **problems(422, 503)},
)
async def tasks_summary(producer: ProducerOf, hours: Hours = 24) -> Response:
    """What was accepted, delivered, worked and spent, in all and by task type."""
    return answer(view(await producer.analytics.summary(hours)))


@router.get(
    "/api/ml/analytics/delivery",
    responses={**success(200, "the delivery ratio, and why it is not 1", Delivery), **problems(422, 503)},
)
async def delivery(producer: ProducerOf, hours: Hours = 24) -> Response:
    """Confirmed against accepted; retries, dead letters, spooled and refused tasks by reason."""
    return answer(view(await producer.analytics.delivery(hours)))


@router.get(
    "/api/ml/analytics/latency",
    responses={**success(200, "averages and percentiles, in seconds", Latency), **problems(422, 503)},
)
async def latency(producer: ProducerOf, hours: Hours = 24) -> Response:
    """How long publishing took, how long it took from acceptance to confirm, and how long workers worked."""
    return answer(view(await producer.analytics.latency(hours)))


@router.get(
    "/api/ml/analytics/hourly",
    responses={**success(200, "every hour, the oldest first", Hourly), **problems(422, 503)},
)
async def hourly(
    producer: ProducerOf,
    hours: Hours = 24,
    task_type: Annotated[str | None, Query(min_length=1, max_length=64)] = None,
) -> Response:
    """The figures of the summary by hour, of all task types or of one."""
    return answer(view(await producer.analytics.hourly(hours, task_type=task_type)))


@router.get(
    "/api/ml/analytics/transcription/costs",
    responses={**success(200, "amounts as text, without a currency", Costs), **problems(422, 503)},
)
async def transcription_costs(producer: ProducerOf, hours: Hours = 24) -> Response:
    """What transcription cost: the task types whose names begin with `transcribe`."""
    return answer(view(await producer.analytics.transcription_costs(hours)))


@router.get(
    "/api/ml/analytics/costs/detailed",
    responses={**success(200, "amounts as text, without a currency", Costs), **problems(422, 503)},
)
async def costs_detailed(producer: ProducerOf, hours: Hours = 24) -> Response:
    """What all tasks cost, by task type, model and hour."""
    return answer(view(await producer.analytics.costs(hours)))


@router.get(
    "/api/ml/analytics/budget/status",
    responses={**success(200, "amounts as text, times in Unix seconds", Budget), **problems(503)},
)
async def budget_status(producer: ProducerOf) -> Response:
    """What the running hour and day of UTC cost, against `ML_BUDGET_HOURLY` and `ML_BUDGET_DAILY`."""
    return answer(view(await producer.analytics.budget()))


@router.post(
    "/api/ml/results",
    openapi_extra=body(Result),
    responses={**success(200, "what of it was new", Reported), **problems(413, 415, 422, 503)},
)
async def results(request: Request, producer: ProducerOf) -> Response:
    """A worker reports how a task ended, how long it worked, what it cost. Reported again, it counts once."""
    asked = await read_model(request, producer.settings.ml_max_body_bytes, Result)
    result = TaskResult(
        asked.task_id,
        asked.task_type or producer.task_type_of(asked.task or ""),
        time.time() if asked.finished_at is None else asked.finished_at,
        asked.status,
        asked.duration,
        asked.cost,
        asked.model,
        asked.part,
    )
    (counted,) = await producer.report([result])
    return answer(Reported(asked.task_id, counted.finish, counted.cost))
