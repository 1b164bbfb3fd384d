"""The memory of tasks that run or were done, as `once` needs it. One record a task id, in a store of many workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from mlproducer.errors import SettingsError
from mlproducer.urls.keys import pass_phrase
from mlproducer.urls.parts import BadUrl, read_url

_LIKE: Final = "it must be redis://host:port/number, rediss://…, sqlite:////path or postgresql://…"
_OF_REDIS: Final = (
    *("db", "client_name", "protocol", "max_connections", "health_check_interval"),
    *("socket_timeout", "socket_connect_timeout", "socket_keepalive", "retry_on_timeout"),
    *("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_cert_reqs", "ssl_check_hostname"),
)
"""Of redis-py's `from_url`; another one would end the first task with a TypeError."""


@dataclass(frozen=True, slots=True)
class Claim:
    """`token` says whose run it is. `turn` counts how often the task was sent again on purpose: see `Delivery.turn`."""

    task_id: str
    token: str
    turn: int


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a task id: that it is done, or that another run has it, of `turn`."""

    done: bool
    turn: int = 0


class ClaimStore(Protocol):
    """Every method raises `OnceUnavailable`, if the store cannot be used now. Times are seconds, by its own clock."""

    def claim(self, claim: Claim, lease: float) -> Found | None:
        """Take the id for `lease` seconds; None if it is ours, also if a call before took it and its answer was lost.
        A lease that is over counts for nothing.
        """
        ...

    def renew(self, claim: Claim, lease: float) -> bool:
        """False if the claim is not ours any more."""
        ...

    def release(self, claim: Claim) -> None:
        """Forget the claim, if it is still ours."""
        ...

    def finish(self, claim: Claim, ttl: float) -> None:
        """Remember the id as done for `ttl` seconds, whoever has claimed it: the work is done."""
        ...

    def close(self) -> None:
        """Give its connections back. A worker need not: its end does."""
        ...


def open_claims(url: str) -> ClaimStore:
    """The store that `url` names; nothing is connected to yet.

    Raises: SettingsError, naming `ML_ONCE_URL`.
    """
    scheme = url.partition("://")[0]
    phrase = ""
    if not url.startswith("sqlite://"):  # a path may have any character
        phrase = check_url(url, scheme)
    match scheme.partition("+")[0]:
        case "redis" | "rediss" | "unix":
            from mlproducer.worker.redis_claims import RedisClaims  # noqa: PLC0415  # an optional dependency

            return RedisClaims(url, phrase if scheme == "rediss" else None)
        case "sqlite" | "postgresql" | "postgres":
            from mlproducer.worker.sql_claims import SqlClaims  # noqa: PLC0415  # an optional dependency of workers

            return SqlClaims(url)
        case _:
            raise SettingsError(f"ML_ONCE_URL: {_LIKE}")


def check_url(url: str, scheme: str) -> str:
    """What the clients of the stores would drop or misread is refused. Returns the pass phrase of the client's key.

    Raises: SettingsError, naming `ML_ONCE_URL`.
    """
    try:
        read = read_url(url, (scheme.lower(),), like=_LIKE)
        if scheme in {"redis", "rediss", "unix"}:
            read.parameters(_OF_REDIS)
        of, phrase = ("ssl_keyfile", "ssl_password") if scheme == "rediss" else ("sslkey", "sslpassword")
        given = dict(read.query)
        return pass_phrase(given.get(of), given.get(phrase), key_name=of, name=phrase)
    except BadUrl as error:
        raise SettingsError(f"ML_ONCE_URL: {error}") from None
