"""What `ML_SPOOL_URL` says of a Redis server: `redis://[user:password@]host[:port][/db][?options]`, or `rediss://`.

Our own reading of it, so that no option reaches the client library that the spool does not know of: a `retry` or a
`decode_responses` in the URL would break promises here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from mlproducer.errors import SettingsError
from mlproducer.urls.keys import pass_phrase
from mlproducer.urls.parts import BadUrl, Host, read_url

_PORT: Final = 6379
_LIKE: Final = "redis://[user:password@]host:port/db, or rediss:// for TLS"
_PREFIX: Final = re.compile(r"[!-z|~]{1,64}")
"""Printable ASCII without blanks and braces: the braces around it are the hash tag of Redis Cluster."""

_TLS_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS: Final = (*_TLS_FILES, "ssl_password", "ssl_cert_reqs", "ssl_check_hostname")
_OPTIONS: Final = ("persistence", "prefix", "timeout", "client_name")


class Persistence(StrEnum):
    """How durable the server must be, or `open` refuses it. See `look.refusal`."""

    AOF = "aof"
    """The default: an append-only file, with a warning where it is not synced with each commit."""
    ALWAYS = "always"
    """An append-only file that is synced with each commit (`appendfsync always`), and a server that says so."""
    UNSAFE = "unsafe"
    """Whatever the server does: what was accepted may be gone with it."""


@dataclass(frozen=True, slots=True)
class Address:
    """One server, or any node of a cluster."""

    host: str
    port: int
    db: int
    user: str | None
    password: str | None = field(repr=False)
    prefix: str
    persistence: Persistence
    timeout: float
    """Seconds that a server may take to answer."""
    options: dict[str, Any] = field(repr=False)
    """More arguments for the client's connections: TLS and the client's name."""

    @property
    def node(self) -> str:
        """As errors and logs may show it: never a password."""
        return Host(self.host, self.port).shown(self.port)

    @classmethod
    def parse(cls, url: str, *, prefix: str) -> Address:
        """`prefix` is what holds where the URL has no `?prefix=`. Raises: SettingsError, naming `ML_SPOOL_URL`."""
        try:
            parts = read_url(url, ("redis", "rediss"), like=_LIKE)
            tls = parts.scheme == "rediss"
            given = parts.parameters(_OPTIONS + (_TLS if tls else ()))
            phrase = pass_phrase(
                given.get("ssl_keyfile"), given.get("ssl_password"), key_name="ssl_keyfile", name="ssl_password"
            )
        except BadUrl as error:
            raise _wrong(str(error)) from None
        if not parts.host.name:
            raise _wrong(f"it names no host; it must be {_LIKE}")
        return cls(
            parts.host.name,
            parts.host.port or _PORT,
            _db(parts.path),
            parts.user or None,
            parts.password or None,
            _prefix(given.get("prefix", prefix)),
            _persistence(given.get("persistence", Persistence.AOF)),
            _seconds(given.get("timeout", "5")),
            _client_options({**given, "ssl_password": phrase}, tls=tls),
        )


def _db(path: str) -> int:
    text = path.removeprefix("/")
    if not text:
        return 0
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise _wrong("the part after the host is the number of the database")
    return int(text)


def _prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text):
        raise _wrong("`prefix` is 1 to 64 printable ASCII characters without blanks and braces")
    return text


def _persistence(text: str) -> Persistence:
    try:
        return Persistence(text)
    except ValueError:
        raise _wrong(f"`persistence` is one of {', '.join(Persistence)}") from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.05 <= seconds <= 60:  # noqa: PLR2004  # the sentence below has them
        raise _wrong("`timeout` is the seconds that the server may take to answer, 0.05 to 60")
    return seconds


def _client_options(given: Mapping[str, str], *, tls: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"client_name": given.get("client_name", "mlproducer")}
    if tls:
        options |= {name: given[name] for name in _TLS_FILES if name in given}
        options["ssl_password"] = given["ssl_password"]
        options["ssl_cert_reqs"] = given.get("ssl_cert_reqs", "required")
        named = given.get("ssl_check_hostname", "true").lower()
        if options["ssl_cert_reqs"] not in ("required", "optional", "none") or named not in ("true", "false"):
            raise _wrong("`ssl_cert_reqs` is required, optional or none; `ssl_check_hostname` is true or false")
        # Without a certificate to look at there is no name to check in it.
        options["ssl_check_hostname"] = named == "true" and options["ssl_cert_reqs"] != "none"
        options["ssl"] = True
    return options


def _wrong(words: str) -> SettingsError:
    return SettingsError(f"ML_SPOOL_URL: {words}")
