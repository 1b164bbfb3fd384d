"""The console's own calls: its files, signing in and out, and the live stream.

What it shows and does beyond that goes through the API under /api/ml, which takes the session's cookie for a key
(`http.auth`). The files hold nothing of the producer, so anybody may have them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from importlib.metadata import version
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from mlproducer.http.auth import (
    SignedIn,
    cookie_name,
    key_name,
    known_key,
    require_caller,
    require_console,
    require_own_origin,
    require_this_machine,
    session_token,
)
from mlproducer.http.body import read_model
from mlproducer.http.console.assets import PAGE, asset_response, assets
from mlproducer.http.console.pulse import Pulse
from mlproducer.http.holder import get_producer, get_pulse, get_sessions
from mlproducer.http.problems import ProblemRoute, Unauthorized
from mlproducer.http.sessions import LIFETIME, Session, Sessions
from mlproducer.http.views import answer
from mlproducer.loggers import get_logger
from mlproducer.wiring import Producer

SIGN_IN_LIMIT: Final = 4_096
"""Bytes of a sign-in."""

ProducerOf = Annotated[Producer, Depends(get_producer)]
SessionsOf = Annotated[Sessions, Depends(get_sessions)]

_log = get_logger(__name__)

router = APIRouter(route_class=ProblemRoute, include_in_schema=False)


class SignIn(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    key: Annotated[str, Field(min_length=1, max_length=1_024)]


@router.get("/")
async def page(request: Request) -> Response:
    return asset_response(request, assets()[PAGE])


@router.get("/console/session")
async def who(request: Request, producer: ProducerOf, session: SignedIn) -> Response:
    """Whether the page has to ask for a key, and what it needs to know before it can show anything."""
    if producer.settings.ml_api_keys and session is None:
        return answer({"signed_in": False})
    if not producer.settings.ml_api_keys and not producer.settings.ml_insecure:
        require_this_machine(request)
    return answer(_welcome(producer, session))


@router.post("/console/session")
async def sign_in(request: Request, producer: ProducerOf, sessions: SessionsOf) -> Response:
    """A key for a cookie. Without keys there is nothing to sign in for."""
    require_own_origin(request)
    asked = await read_model(request, SIGN_IN_LIMIT, SignIn)
    given = asked.key.strip().encode().decode("latin-1")  # the form that a header has
    if not known_key(given, producer.settings):
        _log.warning("a sign-in at the console with a wrong key")
        raise Unauthorized("this key is none of ML_API_KEYS")
    sessions.close(session_token(request))
    token, session = sessions.open(key_name(given))
    _log.info("signed in at the console: %s", session.name)
    response = answer(_welcome(producer, session), 201)
    secure = _over_tls(request)
    response.set_cookie(
        cookie_name(request, secure=secure),
        token,
        max_age=int(LIFETIME),
        path="/",
        secure=secure,
        httponly=True,
        samesite="strict",
    )
    return response


@router.delete("/console/session")
async def sign_out(request: Request, session: SignedIn, sessions: SessionsOf) -> Response:
    """Ends the session and, with it, the streams that were opened by it."""
    if session is not None:
        require_console(request, session)
        sessions.close(session_token(request))
    response = Response(status_code=204)
    for secure in (True, False):
        response.delete_cookie(
            cookie_name(request, secure=secure), path="/", secure=secure, httponly=True, samesite="strict"
        )
    return response


@router.get("/console/events", dependencies=[Depends(require_caller)])
async def events(
    request: Request, session: SignedIn, sessions: SessionsOf, pulse: Annotated[Pulse, Depends(get_pulse)]
) -> Response:
    """Samples, verdicts and the first rows of the queues as server-sent events; an API key opens it, too."""
    token = session_token(request)
    frames = pulse.frames(lambda: session is None or sessions.find(token) is not None)
    first = await anext(frames)  # so that too many consoles are a 503 and no broken stream
    return StreamingResponse(_after(first, frames), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


@router.get("/console/{name}")
async def asset(request: Request, name: str) -> Response:
    found = assets().get(name)
    if found is None:
        raise HTTPException(404)
    return asset_response(request, found)


async def _after(first: bytes, frames: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    try:
        yield first
        async for frame in frames:
            yield frame
    finally:
        await frames.aclose()


def _welcome(producer: Producer, session: Session | None) -> dict[str, Any]:
    return {
        "signed_in": True,
        "by_key": session is not None,
        "csrf": None if session is None else session.csrf,
        "version": version("mlproducer"),
        "task_types": sorted(producer.task_types.names),
    }


def _over_tls(request: Request) -> bool:
    """As the browser sees it: what speaks TLS may stand in front of us, and then only Origin tells."""
    return request.url.scheme == "https" or request.headers.get("origin", "").lower().startswith("https://")
