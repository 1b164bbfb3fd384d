"""`ML_SPOOL_URL` of a PostgreSQL server, read whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import URL

from mlproducer.errors import SettingsError
from mlproducer.urls.keys import pass_phrase
from mlproducer.urls.parts import TAKE_WRITES, BadUrl, Host, choice, decoded, read_url

DEFAULT_TIMEOUT: Final = 10.0
_PORT: Final = 5432
_WANTED: Final = "target_session_attrs"


@dataclass(frozen=True, slots=True)
class Address:
    """`ML_SPOOL_URL` in parts. Its text is without user and password."""

    url: URL = field(repr=False)
    timeout: float
    pass_phrase: str = field(repr=False)
    """Of the client's key: libpq asks at the terminal if it has none and needs one, also for a key in its own place."""

    def __str__(self) -> str:
        hosts = self.url.query.get("host", "localhost")
        if not self.url.host and not isinstance(hosts, str):
            return f"postgresql://{','.join(hosts)}/{self.url.database or ''}"
        host = self.url.host or str(hosts)
        return f"postgresql://{host}:{self.url.port or _PORT}/{self.url.database or ''}"

    @property
    def libpq(self) -> dict[str, Any]:
        """Arguments of `psycopg.connect`, with the password."""
        _, arguments = self.url.get_dialect()().create_connect_args(self.url)
        return {**arguments, **self.connect_args}

    @property
    def connect_args(self) -> dict[str, Any]:
        hosts, wanted = self.url.query.get("host", ""), self.url.query.get(_WANTED)
        servers = len(hosts.split(",")) if isinstance(hosts, str) else len(hosts)
        return {
            "connect_timeout": max(2, round(self.timeout / servers)),  # for each; libpq knows none shorter
            "sslpassword": self.pass_phrase,
            _WANTED: wanted if wanted == "primary" else "read-write",
            "prepare_threshold": None,
            "fallback_application_name": "mlproducer",
            # A machine that went away without a word is noticed while we only listen.
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        }


def parse(url: str) -> Address:
    """Raises: SettingsError, which names ML_SPOOL_URL and quotes nothing of it."""
    try:
        import psycopg  # noqa: F401, PLC0415  # only who names a PostgreSQL needs its driver
    except ImportError:
        raise SettingsError(
            "ML_SPOOL_URL: postgresql:// needs the driver psycopg 3: pip install 'mlproducer[postgresql]'"
        ) from None
    like = "postgresql://user:password@host:5432/database?timeout=10 (in seconds)"
    try:
        parts = read_url(url, ("postgresql", "postgres", "postgresql+psycopg"), like=like, several_hosts=True)
        given = dict(parts.parameters((*_libpq_names(), "timeout"), several=("host", "port")))
        choice(given.get(_WANTED, "any"), _WANTED, TAKE_WRITES)
        phrase = pass_phrase(given.get("sslkey"), given.get("sslpassword"), key_name="sslkey", name="sslpassword")
        database = decoded(parts.path[1:], "path")
    except BadUrl as error:
        raise SettingsError(f"ML_SPOOL_URL: {error}") from None
    timeout = _seconds(given.pop("timeout", str(DEFAULT_TIMEOUT)))
    query: dict[str, tuple[str, ...] | str] = {
        name: tuple(value for each, value in parts.query if each == name) if name in {"host", "port"} else given[name]
        for name in given
    }
    if len(parts.hosts) > 1:
        query["host"] = tuple(host.shown(_PORT) for host in parts.hosts)
    one = parts.host if len(parts.hosts) == 1 else Host("")
    return Address(
        URL.create(
            "postgresql+psycopg", parts.user, parts.password, one.name or None, one.port, database or None, query
        ),
        timeout,
        phrase,
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:  # noqa: PLR2004  # an hour
        raise SettingsError("ML_SPOOL_URL: `timeout` is seconds, more than 0 and up to 3600")
    return seconds


def _libpq_names() -> frozenset[str]:
    """What may be in the query: libpq's own keywords, of the version that is installed."""
    from psycopg.pq import Conninfo  # noqa: PLC0415  # as above

    return frozenset(option.keyword.decode() for option in Conninfo.get_defaults())
