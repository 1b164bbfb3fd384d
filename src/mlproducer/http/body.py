"""Reading request bodies within limits: one whole, or line by line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Final, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from mlproducer.errors import NotAccepting
from mlproducer.http.problems import BodyTooLarge, WrongMediaType, invalid

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"

Chunk = TypeVar("Chunk")
Asked = TypeVar("Asked", bound=BaseModel)


async def read_json_body(request: Request, limit: int) -> bytes:
    """The whole body, at most `limit` bytes, which is also checked while it streams in: a length may be absent.

    Raises: WrongMediaType, BodyTooLarge.
    """
    require_media_type(request, JSON)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


async def read_model(request: Request, limit: int, model: type[Asked]) -> Asked:
    """The whole body as a model. Raises: InvalidRequest, naming each field; else as `read_json_body`."""
    raw = await read_json_body(request, limit)
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise invalid(error) from None


def require_media_type(request: Request, expected: str) -> None:
    """Also a fence: a web page of another site cannot send these types without asking the browser first.

    Raises: WrongMediaType.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != expected:
        raise WrongMediaType(f"this path reads {expected}; say so in the Content-Type header")


async def until(chunks: AsyncIterator[Chunk], stopping: asyncio.Event) -> AsyncIterator[Chunk]:
    """The chunks, until `stopping` is set: also one that never comes is then no longer waited for.

    Raises: NotAccepting, once `stopping` is set.
    """
    loop = asyncio.get_running_loop()
    stop = loop.create_task(stopping.wait())
    step: asyncio.Task[Chunk | None] | None = None
    try:
        while True:
            step = loop.create_task(_next(chunks))
            await asyncio.wait((step, stop), return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                raise NotAccepting("the service stops; send again, elsewhere or in a moment, what has no answer")
            chunk = step.result()
            if chunk is None:
                return
            yield chunk
    finally:
        pending = [task for task in (step, stop) if task is not None]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def _next(chunks: AsyncIterator[Chunk]) -> Chunk | None:
    return await anext(chunks, None)


async def lines(chunks: AsyncIterable[bytes], limit: int) -> AsyncIterator[tuple[int, bytes | None]]:
    """Each line with its number, counted from 1; None for a line over `limit` bytes, which is never held whole."""
    number = 0
    held = bytearray()
    skipping = False
    async for chunk in chunks:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            number += 1
            if skipping or len(held) + end - start > limit:
                yield number, None
            else:
                yield number, bytes(held) + chunk[start:end]
            held.clear()
            skipping = False
            start = end + 1
        if skipping or len(held) + len(chunk) - start > limit:
            held.clear()
            skipping = True
        else:
            held += chunk[start:]
    if skipping:
        yield number + 1, None
    elif held:
        yield number + 1, bytes(held)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the body has more than the {limit} bytes that ML_MAX_BODY_BYTES allows; send several tasks as a stream to "
        "/api/ml/tasks/batch, or raise the setting"
    )
