"""Who may call: a key where keys are set, or who signed in at the console with one; else only this machine, and there
no web page of another site.
"""

from __future__ import annotations

import hashlib
import hmac
from ipaddress import ip_address
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import Depends, Header, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from mlproducer.errors import SettingsError
from mlproducer.http.holder import get_producer, get_sessions
from mlproducer.http.problems import Forbidden, Unauthorized
from mlproducer.http.sessions import Session, Sessions, same
from mlproducer.settings import LOOPBACK, Settings
from mlproducer.wiring import Producer

CSRF_HEADER: Final = "X-CSRF-Token"
COOKIE: Final = "mlproducer"
_READING: Final = frozenset({"GET", "HEAD"})

_bearer = HTTPBearer(auto_error=False, description="One of ML_API_KEYS.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="One of ML_API_KEYS.")


def refuse_open_door(settings: Settings) -> None:
    """Bound where others reach it, the service needs keys, or to be told in so many words that it does not.

    Raises: SettingsError.
    """
    if not (settings.loopback_only or settings.ml_api_keys or settings.ml_insecure):
        raise SettingsError(
            "ML_API_KEYS: ML_HOST is not a loopback address, so others on the network could publish and read tasks; "
            "set one or more keys of 16 characters (openssl rand -hex 16), or say --insecure (ML_INSECURE=true) if "
            "something in front of the service checks its callers"
        )


Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
ApiKey = Annotated[str | None, Security(_header)]
Operator = Annotated[
    str | None,
    Header(
        alias="X-Operator",
        pattern=r"^[!-~]([ -~]{0,62}[!-~])?$",
        description="Who asks, for the audit: 1 to 64 printable ASCII characters. Believed, not checked.",
    ),
]


async def find_session(request: Request, sessions: Annotated[Sessions, Depends(get_sessions)]) -> Session | None:
    """Whose cookie the browser sends, if it is a session that stands."""
    return sessions.find(session_token(request))


SignedIn = Annotated[Session | None, Depends(find_session)]


def require_caller(
    request: Request,
    producer: Annotated[Producer, Depends(get_producer)],
    bearer: Bearer,
    header: ApiKey,
    session: SignedIn,
) -> None:
    """The guard of every route that changes or shows tasks. Raises: Unauthorized, Forbidden."""
    settings = producer.settings
    if settings.ml_api_keys:
        given = _given(bearer, header)
        if given is None and session is not None:
            require_console(request, session)
            return
        if given is None:
            raise Unauthorized("send one of ML_API_KEYS as `Authorization: Bearer …` or `X-API-Key: …`")
        if not known_key(given, settings):
            raise Unauthorized("this key is none of ML_API_KEYS")
    elif not settings.ml_insecure:
        require_this_machine(request)


def caller_name(
    producer: Annotated[Producer, Depends(get_producer)],
    bearer: Bearer,
    header: ApiKey,
    session: SignedIn,
    operator: Operator = None,
) -> str:
    """Who calls, for an audit: which key, by its fingerprint, and the name that the caller gives in `X-Operator`.

    The fingerprint is enough to tell the keys of one service apart, and far too little to make one again. The name is
    a claim, and what we know ourselves always stands behind it, in the last brackets: `ada (key:1a2b3c4d)`.
    """
    settings, given = producer.settings, _given(bearer, header)
    if settings.ml_api_keys and given is not None:
        known = key_name(given)
    elif settings.ml_api_keys and session is not None:
        known = session.name
    else:
        known = "anybody" if settings.ml_insecure else "local"
    return known if operator is None else f"{operator} ({known})"


def key_name(given: str) -> str:
    """A key's fingerprint. `given` is as a header has it: a character a byte."""
    return f"key:{hashlib.sha256(given.encode('latin-1')).hexdigest()[:8]}"


def require_console(request: Request, session: Session) -> None:
    """A browser sends its cookie whoever made it call; the token only our own page can know. So a call that changes
    something must bring it, besides coming from where our page is. Raises: Forbidden.
    """
    if request.method in _READING:
        return
    require_own_origin(request)
    if not same(request.headers.get(CSRF_HEADER, ""), session.csrf):
        raise Forbidden(f"with a cookie, a call that changes something needs the {CSRF_HEADER} of its session")


def require_own_origin(request: Request) -> None:
    """Raises: Forbidden, for a page of another site. By host alone: in front of us there may be who speaks TLS."""
    origin = request.headers.get("origin")
    host = request.headers.get("host", "")
    if origin is not None and origin.lower() not in {f"{scheme}://{host}".lower() for scheme in ("http", "https")}:
        raise Forbidden("no page of another site is served; the Origin header says it is one")


def session_token(request: Request) -> str:
    """Of the cookie; empty if there is none."""
    names = (cookie_name(request, secure=True), cookie_name(request, secure=False))
    return next((found for name in names if (found := request.cookies.get(name))), "")


def cookie_name(request: Request, *, secure: bool) -> str:
    """With the port, which browsers do not tell cookies apart by: two services on one machine each have theirs.

    `__Host-` lets no other host or path set it (RFC 6265bis §4.1.3.2), but browsers take that only over TLS.
    """
    host = request.headers.get("host", "")
    port = host.rpartition(":")[2]
    return f"{'__Host-' if secure else ''}{COOKIE}{port if port.isdecimal() else ''}"


def _given(bearer: HTTPAuthorizationCredentials | None, header: str | None) -> str | None:
    return bearer.credentials if bearer is not None else header


def known_key(given: str, settings: Settings) -> bool:
    """Compares with every key, and each in constant time, so that time tells neither which nor how much fits."""
    raw = given.encode("latin-1")  # the bytes as they came: ASGI servers decode headers so
    found = False
    for key in settings.ml_api_keys:
        found |= hmac.compare_digest(raw, key.get_secret_value().encode())
    return found


def require_this_machine(request: Request) -> None:
    """Without keys, the loopback address is the fence, and a browser on this machine is the hole in it.

    A page of evil.example may point its own name at 127.0.0.1 (DNS rebinding): then Host says evil.example. Or it
    posts here from its own origin: then Origin says so. The caller's address counts where our router is mounted in
    an application that is bound to the network: a Host header is quickly forged.
    """
    if request.client is not None and not _on_this_machine(request.client.host):
        raise Forbidden("without ML_API_KEYS only callers on this machine are served; set ML_API_KEYS and send a key")
    host = request.headers.get("host", "")
    if _name(host) not in LOOPBACK:
        raise Forbidden(
            "without ML_API_KEYS only callers on this machine are served, by the names 127.0.0.1, localhost or [::1]; "
            "the Host header says another"
        )
    origin = request.headers.get("origin")
    if origin is not None and origin.lower() != f"{request.url.scheme}://{host}".lower():
        raise Forbidden("without ML_API_KEYS no page of another site is served; the Origin header says it is one")


def _on_this_machine(address: str) -> bool:
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
