"""Claims in Redis: one key a task id, `mlproducer:once:<id>`, which Redis itself forgets in time.

The value is `done`, or `<turn> <token>` while a run has it. Each step is one script on one key, so it is atomic, and a
cluster takes it as it is. A Redis that evicts keys or keeps nothing on disk may forget, and then a task may run again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from mlproducer.errors import OnceUnavailable, SettingsError
from mlproducer.worker.claims import Claim, Found

PREFIX: Final = "mlproducer:once:"
TIMEOUT: Final = 5.0
"""Seconds for a connect and for an answer."""

_CLAIM: Final = """
local found = redis.call('GET', KEYS[1])
if found and found ~= ARGV[1] then return found end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
"""
_RENEW: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_RELEASE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""
_DONE: Final = b"done"


class RedisClaims:
    """A `ClaimStore`. `pass_phrase` is of the client's key, with TLS; without it a key that needs one asks at the
    terminal. Raises: SettingsError, if `url` is wrong or redis is not installed.
    """

    def __init__(self, url: str, pass_phrase: str | None = None) -> None:
        try:
            from redis import Redis, RedisError  # noqa: PLC0415  # an optional dependency

            more = {} if pass_phrase is None else {"ssl_password": pass_phrase}
            client = Redis.from_url(url, **more, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
        except ImportError as error:
            raise SettingsError("ML_ONCE_URL: redis:// needs `pip install 'mlproducer[redis]'`") from error
        except ValueError as error:
            raise SettingsError("ML_ONCE_URL: it must look like redis://host:port/number") from error
        self._client: Any = client
        self._error: type[Exception] = RedisError
        self._claim: Any = client.register_script(_CLAIM)
        self._renew: Any = client.register_script(_RENEW)
        self._release: Any = client.register_script(_RELEASE)

    def claim(self, claim: Claim, lease: float) -> Found | None:
        with self._explained():
            found = self._claim(keys=[_key(claim)], args=[_value(claim), _milliseconds(lease)])
        if found is None:
            return None
        text = found if isinstance(found, bytes) else str(found).encode()
        return Found(done=True) if text == _DONE else Found(done=False, turn=int(text.split(b" ")[0]))

    def renew(self, claim: Claim, lease: float) -> bool:
        with self._explained():
            return bool(self._renew(keys=[_key(claim)], args=[_value(claim), _milliseconds(lease)]))

    def release(self, claim: Claim) -> None:
        with self._explained():
            self._release(keys=[_key(claim)], args=[_value(claim)])

    def finish(self, claim: Claim, ttl: float) -> None:
        with self._explained():
            self._client.set(_key(claim), _DONE, px=_milliseconds(ttl))

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise OnceUnavailable(
                f"Redis does not say which tasks were done ({type(error).__name__}: {error}): see ML_ONCE_URL"
            ) from error


def _key(claim: Claim) -> str:
    return PREFIX + claim.task_id


def _value(claim: Claim) -> str:
    return f"{claim.turn} {claim.token}"


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
