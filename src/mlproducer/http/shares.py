"""Shares over HTTP: which tasks a share needs is decided by `ShareProcessor`, here it is only asked."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response
from pydantic_core import from_json

from mlproducer.errors import InvalidTask
from mlproducer.http.auth import require_caller
from mlproducer.http.body import read_json_body
from mlproducer.http.describe import GUARDED, body, problems, success
from mlproducer.http.holder import get_processor, get_producer
from mlproducer.http.problems import ProblemRoute
from mlproducer.http.views import answer, share_view
from mlproducer.shares.processor import ShareProcessor, ShareReceipt
from mlproducer.shares.share import Share, parse_share
from mlproducer.wiring import Producer

_SHARE: Final = body(Share)
_NEEDS: Final = {
    **success(200, "the share needs no task", ShareReceipt),
    **success(201, "all of its tasks are confirmed", ShareReceipt),
    **success(202, "at least one is spooled", ShareReceipt),
    **problems(409, 413, 415, 422, 503),
}

router = APIRouter(route_class=ProblemRoute, tags=["shares"], dependencies=[Depends(require_caller)], responses=GUARDED)


Processor = Annotated[ShareProcessor, Depends(get_processor)]
ProducerOf = Annotated[Producer, Depends(get_producer)]


@router.post("/api/shares", status_code=201, openapi_extra=_SHARE, responses=_NEEDS)
async def process(request: Request, processor: Processor, producer: ProducerOf) -> Response:
    """Publish all tasks that a share needs, as one group. The same share again publishes nothing twice."""
    return _answer(await processor.process(await _share(request, producer)))


@router.post("/api/shares/{share_id:path}/ml/summarize", status_code=201, openapi_extra=_SHARE, responses=_NEEDS)
async def summarize(share_id: str, request: Request, processor: Processor, producer: ProducerOf) -> Response:
    """Summarise a share's text. The body is the share; its `id` may be left out."""
    return _answer(await processor.summarize(await _share(request, producer, share_id)))


@router.post("/api/shares/{share_id:path}/ml/transcribe", status_code=201, openapi_extra=_SHARE, responses=_NEEDS)
async def transcribe(share_id: str, request: Request, processor: Processor, producer: ProducerOf) -> Response:
    """Transcribe a share's media. The body is the share; its `id` may be left out."""
    return _answer(await processor.transcribe(await _share(request, producer, share_id)))


@router.post("/api/shares/{share_id:path}/ml/embed", status_code=201, openapi_extra=_SHARE, responses=_NEEDS)
async def embed(share_id: str, request: Request, processor: Processor, producer: ProducerOf) -> Response:
    """Embed a share's text. The body is the share; its `id` may be left out."""
    return _answer(await processor.embed(await _share(request, producer, share_id)))


async def _share(request: Request, producer: Producer, share_id: str | None = None) -> Share:
    """The share of the body. Raises: InvalidTask, BodyTooLarge, WrongMediaType."""
    raw = await read_json_body(request, producer.settings.ml_max_body_bytes)
    if share_id is None:
        return parse_share(raw)
    try:
        data = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidTask(f"not valid JSON: {error}") from None
    return parse_share(_with_id(data, share_id))


def _with_id(data: object, share_id: str) -> object:
    if not isinstance(data, dict):
        return data
    if data.get("id", share_id) != share_id:
        raise InvalidTask("is not the id in the path; leave it out, or send the same", field="id")
    return {**data, "id": share_id}


def _answer(receipt: ShareReceipt) -> Response:
    if not receipt.receipts:
        return answer(share_view(receipt), HTTPStatus.OK)
    confirmed = all(each.confirmed for each in receipt.receipts)
    return answer(share_view(receipt), HTTPStatus.CREATED if confirmed else HTTPStatus.ACCEPTED)
