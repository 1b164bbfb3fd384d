"""Who may call: a key where keys are set, else only this machine, and there no web page of another site."""

from __future__ import annotations

import hashlib
import hmac
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Header, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from mlproducer.errors import SettingsError
from mlproducer.http.holder import get_producer
from mlproducer.http.problems import Forbidden, Unauthorized
from mlproducer.settings import LOOPBACK, Settings
from mlproducer.wiring import Producer

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


def require_caller(
    request: Request, producer: Annotated[Producer, Depends(get_producer)], bearer: Bearer, header: ApiKey
) -> None:
    """The guard of every route that changes or shows tasks. Raises: Unauthorized, Forbidden."""
    settings = producer.settings
    if settings.ml_api_keys:
        given = _given(bearer, header)
        if given is None:
            raise Unauthorized("send one of ML_API_KEYS as `Authorization: Bearer …` or `X-API-Key: …`")
        if not _known(given, settings):
            raise Unauthorized("this key is none of ML_API_KEYS")
    elif not settings.ml_insecure:
        _require_this_machine(request)


def caller_name(
    producer: Annotated[Producer, Depends(get_producer)], bearer: Bearer, header: ApiKey, operator: Operator = None
) -> str:
    """Who calls, for an audit: which key, by its fingerprint, and the name that the caller gives in `X-Operator`.

    The fingerprint is enough to tell the keys of one service apart, and far too little to make one again. The name is
    a claim, and what we know ourselves always stands behind it, in the last brackets: `ada (key:1a2b3c4d)`.
    """
    settings, given = producer.settings, _given(bearer, header)
    if settings.ml_api_keys and given is not None:
        known = f"key:{hashlib.sha256(given.encode('latin-1')).hexdigest()[:8]}"
    else:
        known = "anybody" if settings.ml_insecure else "local"
    return known if operator is None else f"{operator} ({known})"


def _given(bearer: HTTPAuthorizationCredentials | None, header: str | None) -> str | None:
    return bearer.credentials if bearer is not None else header


def _known(given: str, settings: Settings) -> bool:
    """Compares with every key, and each in constant time, so that time tells neither which nor how much fits."""
    raw = given.encode("latin-1")  # the bytes as they came: ASGI servers decode headers so
    found = False
    for key in settings.ml_api_keys:
        found |= hmac.compare_digest(raw, key.get_secret_value().encode())
    return found


def _require_this_machine(request: Request) -> None:
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
