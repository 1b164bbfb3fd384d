"""The dead letter queue: look, replay, remove, and who did so.

A call answers once what it meant is done, so it must not take for ever. Without a rate it takes at most `MAX_TAKEN`
dead letters, which is about a second's work, and says how many are left. With a rate it may take hours: then the
answer is a stream of lines, one a chunk, and leaving it ends the replay between two chunks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from mlproducer.core.replay import Chosen
from mlproducer.delivery.replay import Step
from mlproducer.delivery.views import audit_view, dead_view, dead_whole
from mlproducer.errors import Fault, MLProducerError, NotFound
from mlproducer.http.auth import caller_name, require_caller
from mlproducer.http.body import NDJSON, read_model, until
from mlproducer.http.describe import GUARDED, body, either, problems, success
from mlproducer.http.holder import get_producer, get_stopping
from mlproducer.http.problems import UNEXPECTED, InvalidRequest, Problem, ProblemRoute, problem_of
from mlproducer.http.views import answer
from mlproducer.loggers import get_logger
from mlproducer.redact import masked
from mlproducer.rows import DeadFilter
from mlproducer.task import Identifier
from mlproducer.wiring import Producer

MAX_TAKEN: Final = 10_000
"""Dead letters that a call without a rate takes at most, and ids that any call names at most."""

ProducerOf = Annotated[Producer, Depends(get_producer)]
Caller = Annotated[str, Depends(caller_name)]

_log = get_logger(__name__)

router = APIRouter(
    route_class=ProblemRoute, tags=["dead letters"], dependencies=[Depends(require_caller)], responses=GUARDED
)


class Where(BaseModel):
    """Which dead letters; all given conditions must hold."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    task_type: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    reason: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    text: Annotated[str, Field(min_length=1, max_length=1_000)] | None = None
    older_than_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    newer_than_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None

    def filter(self, now: float) -> DeadFilter:
        """`now`: the present by the clock that dead letters have their times of, `Producer.now`."""
        older = None if self.older_than_seconds is None else now - self.older_than_seconds
        newer = None if self.newer_than_seconds is None else now - self.newer_than_seconds
        return DeadFilter(self.task_type, self.reason, older, self.text, newer)


class Page(Where):
    limit: Annotated[int, Field(ge=1, le=1_000)] = 100
    offset: Annotated[int, Field(ge=0)] = 0


class AuditPage(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    limit: Annotated[int, Field(ge=1, le=1_000)] = 100
    offset: Annotated[int, Field(ge=0)] = 0


class Choice(Where):
    """Which dead letters: `ids`, or conditions, or `all`; exactly one of the three, so that no slip takes more."""

    ids: Annotated[list[Identifier], Field(min_length=1, max_length=MAX_TAKEN)] | None = None
    all: bool = False
    dry_run: bool = False
    """Only count them; change nothing."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """How many to take at most, the newest first."""

    def chosen(self, now: float) -> Chosen:
        """Raises: InvalidRequest."""
        where = self.filter(now)
        if sum((self.ids is not None, where != DeadFilter(), self.all)) != 1:
            raise InvalidRequest([Fault("ids", "give either ids, or conditions (task_type, reason, …), or all: true")])
        return where if self.ids is None else self.ids

    @property
    def most(self) -> int:
        return MAX_TAKEN if self.limit is None else min(self.limit, MAX_TAKEN)


class Replay(Choice):
    """What to replay, and how fast."""

    rate: Annotated[float, Field(ge=0.1, le=100_000, allow_inf_nan=False)] | None = None
    """Tasks per second; the answer is then a stream of lines, at least one in ten seconds."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """`matched` were meant, `replayed` are back in the retry queue, `left` are dead letters still."""

    matched: int
    replayed: int
    left: int
    dry_run: bool
    by: str


@dataclass(frozen=True, slots=True)
class Removed:
    """`matched` were meant, `removed` are gone for good, `left` are there still."""

    matched: int
    removed: int
    left: int
    dry_run: bool
    by: str


@router.get("/api/ml/dlq", responses=problems(422, 503))
async def dlq(producer: ProducerOf, page: Annotated[Page, Query()]) -> Response:
    """The dead letter queue, newest first, without content. `matched` is how many there are behind all pages."""
    where = page.filter(producer.now())
    found = await producer.dead_letters(where, limit=page.limit, offset=page.offset)
    rows = [dead_view(entry) for entry in found]
    matched = await producer.plan(where)
    return answer({"dead_letters": rows, "matched": matched, "limit": page.limit, "offset": page.offset})


@router.get("/api/ml/dlq/audit", responses=problems(422, 503))
async def audit(producer: ProducerOf, page: Annotated[AuditPage, Query()]) -> Response:
    """Who replayed or removed what, newest first. A large replay has an entry for each of its chunks."""
    found = await producer.audits(limit=page.limit, offset=page.offset)
    return answer({"audits": [audit_view(each) for each in found], "limit": page.limit, "offset": page.offset})


@router.get("/api/ml/dlq/{task_id:path}", responses=problems(404, 422, 503))
async def dead_letter(task_id: str, producer: ProducerOf) -> Response:
    """One dead letter with its history, and its content as the worker would see it."""
    return answer(dead_whole(await producer.dead_letter(task_id)))


@router.post(
    "/api/ml/dlq/replay",
    openapi_extra=body(Replay),
    responses={**either("what was replayed; NDJSON with a rate", Replayed), **problems(413, 415, 422, 503)},
)
async def replay(
    request: Request,
    producer: ProducerOf,
    by: Caller,
    stopping: Annotated[asyncio.Event, Depends(get_stopping)],
) -> Response:
    """Dead letters back into the retry queue, with no attempts spent. `dry_run` only counts them.

    Without `rate`, a call takes at most 10,000; `left` says how many it left: call again. With `rate`, the answer is
    NDJSON: `{"taken", "total", "replayed"}` a chunk, and last the answer as it would else be, with `"done": true`, or
    `{"error": …}`. A client that leaves ends the replay: what was not replayed by then stays dead.
    """
    asked = await read_model(request, producer.settings.ml_max_body_bytes, Replay)
    chosen = asked.chosen(producer.now())
    if asked.dry_run:
        matched = await producer.plan(chosen)
        return answer(Replayed(matched, 0, matched, dry_run=True, by=by))
    matched = await _matched(producer, chosen)
    if asked.rate is not None:
        steps = producer.replay_steps(chosen, by=by, rate=asked.rate, limit=asked.limit)
        first = await anext(steps)  # so that a spool that is not there is a 503 and no broken stream
        return StreamingResponse(_lines(first, steps, matched, by, stopping), media_type=NDJSON)
    done = await producer.replay(chosen, by=by, limit=asked.most)
    return answer(_replayed(matched, done, by))


@router.delete(
    "/api/ml/dlq",
    openapi_extra=body(Choice),
    responses={**success(200, "what was removed", Removed), **problems(413, 415, 422, 503)},
)
async def remove_many(request: Request, producer: ProducerOf, by: Caller) -> Response:
    """Remove dead letters for good, at most 10,000 a call; `left` says how many it left. `dry_run` only counts them."""
    asked = await read_model(request, producer.settings.ml_max_body_bytes, Choice)
    chosen = asked.chosen(producer.now())
    if asked.dry_run:
        matched = await producer.plan(chosen)
        return answer(Removed(matched, 0, matched, dry_run=True, by=by))
    matched = await _matched(producer, chosen)
    done = await producer.purge(chosen, by=by, limit=asked.most)
    return answer(Removed(max(matched, done), done, max(0, matched - done), dry_run=False, by=by))


@router.delete(
    "/api/ml/dlq/{task_id:path}",
    responses={**success(200, "it is removed", Removed), **problems(404, 422, 503)},
)
async def remove(task_id: str, producer: ProducerOf, by: Caller) -> Response:
    """Remove one dead letter for good."""
    if not await producer.purge([task_id], by=by):
        await producer.dead_letter(task_id)  # says where it is instead
        raise NotFound(f"no dead letter {task_id}")
    return answer(Removed(1, 1, 0, dry_run=False, by=by))


async def _matched(producer: Producer, chosen: Chosen) -> int:
    """How many a filter lets through. Ids are counted as they are found: looking each up first would read them all."""
    return await producer.plan(chosen) if isinstance(chosen, DeadFilter) else 0


async def _lines(
    last: Step, steps: AsyncGenerator[Step, None], matched: int, by: str, stopping: asyncio.Event
) -> AsyncGenerator[bytes, None]:
    """A replay as lines. It ends early if the service stops: nobody should wait hours for that."""
    try:
        async with aclosing(steps):
            yield _line(_progress(last))
            async for step in until(steps, stopping):
                last = step
                yield _line(_progress(last))
    except MLProducerError as error:
        yield _line({"error": problem_of(error).as_dict(), **_progress(last)})
    except Exception:  # noqa: BLE001  # the head is out: this line tells the client, or nothing does
        _log.exception("a replay ended by an unexpected error")
        unexpected = Problem(UNEXPECTED, "The log of the service says more.")
        yield _line({"error": unexpected.as_dict(), **_progress(last)})
    else:
        yield _line({"done": True, **asdict(_replayed(matched, last.done, by))})


def _replayed(matched: int, done: int, by: str) -> Replayed:
    return Replayed(max(matched, done), done, max(0, matched - done), dry_run=False, by=by)


def _progress(step: Step) -> dict[str, int]:
    return {"taken": step.taken, "total": step.total, "replayed": step.done}


def _line(content: dict[str, Any]) -> bytes:
    return to_json(masked(content)) + b"\n"
