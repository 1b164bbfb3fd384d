"""Errors as RFC 9457 problems. One table says which error is which status; nothing else in `http` names one.

A problem tells what is wrong and where, with names of fields and settings, and ids where one is looked for or taken.
It never holds another value that the caller sent, because values are content, and never a stack trace.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mlproducer.errors import (
    BlobStoreUnavailable,
    Fault,
    InvalidTask,
    MLProducerError,
    NotAccepting,
    NotFound,
    NotInTime,
    SettingsError,
    SpoolFull,
    SpoolUnavailable,
    TaskConflict,
    TaskTooLarge,
    WrongLoop,
)
from mlproducer.http.tracing import in_trace_of
from mlproducer.redact import masked
from mlproducer.shares.processor import ShareIncomplete

MEDIA_TYPE: Final = "application/problem+json"
BUSY_RETRY: Final = 5.0
"""Seconds to wait while the producer starts or stops: about as long as a restart takes."""


class Unauthorized(MLProducerError):
    """No key, or a wrong one."""


class Forbidden(MLProducerError):
    """The request comes from where no request is taken from."""


class BodyTooLarge(MLProducerError):
    """Over `ML_MAX_BODY_BYTES`."""


class AnswersUnread(MLProducerError):
    """The client of a stream does not read its answers."""


class WrongMediaType(MLProducerError):
    """The body is of another kind than the route reads."""


class InvalidRequest(MLProducerError):
    """Parameters, headers or a body that is no task are wrong."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table."""

    status: int
    slug: str
    title: str


TABLE: Final[tuple[tuple[type[Exception], Kind], ...]] = (
    # The first row whose class fits counts, so a subclass stands before its base.
    (TaskTooLarge, Kind(413, "task-too-large", "The task is too large")),
    (InvalidTask, Kind(422, "invalid-task", "The task is not valid")),
    (InvalidRequest, Kind(422, "invalid-request", "The request is not valid")),
    (ShareIncomplete, Kind(503, "share-incomplete", "A part of the share's tasks is accepted")),
    (TaskConflict, Kind(409, "task-conflict", "The task id is known with other content")),
    (SpoolFull, Kind(503, "spool-full", "The spool is full")),
    (SpoolUnavailable, Kind(503, "spool-unavailable", "The spool cannot be used")),
    (NotInTime, Kind(503, "not-in-time", "The deadline came before the task was safe")),
    (BlobStoreUnavailable, Kind(503, "blob-store-unavailable", "The store of large payloads cannot be used")),
    (NotAccepting, Kind(503, "not-accepting", "No tasks are accepted now")),
    (NotFound, Kind(404, "not-found", "Not found")),
    (Unauthorized, Kind(401, "unauthorized", "An API key is needed")),
    (Forbidden, Kind(403, "forbidden", "Not allowed from there")),
    (BodyTooLarge, Kind(413, "body-too-large", "The request body is too large")),
    (AnswersUnread, Kind(408, "answers-unread", "The answers were not read")),
    (WrongMediaType, Kind(415, "wrong-media-type", "The request body is of another kind")),
    (SettingsError, Kind(500, "wrong-setting", "A setting is wrong")),
    (WrongLoop, Kind(500, "wrong-loop", "The service holds a producer of another event loop")),
)
BY_STATUS: Final = {
    404: Kind(404, "no-such-path", "There is nothing at this path"),
    405: Kind(405, "wrong-method", "The path does not take this method"),
}
UNEXPECTED: Final = Kind(500, "unexpected", "Something went wrong in the service")


@dataclass(frozen=True, slots=True)
class Problem:
    """`retry_after` is in seconds; None where trying again would not help."""

    kind: Kind
    detail: str
    field: str | None = None
    faults: tuple[Fault, ...] = ()
    retry_after: float | None = None
    more: Mapping[str, object] | None = None
    """Members of this kind of problem alone (RFC 9457 §3.2)."""

    def as_dict(self) -> dict[str, object]:
        kind = self.kind
        found: dict[str, object] = {
            "type": f"urn:mlproducer:problem:{kind.slug}",
            "title": kind.title,
            "status": kind.status,
            "detail": self.detail,
        }
        if self.field is not None:
            found["field"] = self.field
        if self.faults:
            found["errors"] = [{"field": fault.field, "problem": fault.problem} for fault in self.faults]
        if self.retry_after is not None:
            found["retry_after"] = self.retry_after
        shown: dict[str, object] = masked({**found, **(self.more or {})})
        return shown

    def response(self) -> Response:
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.kind.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return Response(to_json(self.as_dict()), self.kind.status, headers, MEDIA_TYPE)


def problem_of(error: Exception) -> Problem:
    """The problem of any error; one that the table does not know says nothing of its text."""
    match error:
        case RequestValidationError():
            return problem_of(InvalidRequest([_fault(each) for each in error.errors()]))
        case HTTPException():
            kind = BY_STATUS.get(error.status_code) or Kind(error.status_code, "http-error", "The request failed")
            return Problem(kind, kind.title)
    for fits, kind in TABLE:
        if isinstance(error, fits):
            faults = error.faults if isinstance(error, InvalidRequest | InvalidTask) else ()
            return Problem(kind, str(error), _field(error), faults, _retry_after(error), _more(error))
    return Problem(UNEXPECTED, "The log of the service says more.")


async def problem_response(request: Request, error: Exception) -> Response:
    """An exception handler: `app.add_exception_handler(MLProducerError, problem_response)`."""
    del request
    response = problem_of(error).response()
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)  # a 405 says in Allow what the path takes
    return response


def invalid(error: ValidationError) -> InvalidRequest:
    """A pydantic error about a body, without the values in it."""
    return InvalidRequest([_fault(each) for each in error.errors(include_url=False, include_input=False)])


class ProblemRoute(APIRoute):
    """A route whose known errors become problems, in our application and in somebody else's, and whose tasks belong to
    the trace of the request.

    Unknown errors go on to the application's own handlers.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                with in_trace_of(request.headers):
                    return await handle(request)
            except (MLProducerError, RequestValidationError) as error:
                return problem_of(error).response()
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it; the client left before its body was whole

        return answer


def _fault(error: Any) -> Fault:  # noqa: ANN401  # pydantic's and FastAPI's error dictionaries
    place = [str(part) for part in error["loc"] if part not in {"query", "path", "body"}]
    return Fault(".".join(place), str(error["msg"]))


def _field(error: Exception) -> str | None:
    if isinstance(error, InvalidTask):
        return error.field
    if isinstance(error, InvalidRequest):
        return error.faults[0].field if error.faults else None
    return None


def _more(error: Exception) -> Mapping[str, object] | None:
    """A share of which a part is safe: the receipts of that part are the caller's."""
    if not isinstance(error, ShareIncomplete):
        return None
    return {
        "receipts": [asdict(receipt) for receipt in error.receipts],
        "refused": {task_id: problem_of(each).as_dict() for task_id, each in error.refused.items()},
    }


def _retry_after(error: Exception) -> float | None:
    if isinstance(error, SpoolFull | SpoolUnavailable | BlobStoreUnavailable | ShareIncomplete):
        return error.retry_after
    return BUSY_RETRY if isinstance(error, NotAccepting | NotInTime) else None
