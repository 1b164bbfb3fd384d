"""From `ML_SPOOL_URL` to a spool."""

from __future__ import annotations

from pathlib import Path

from mlproducer.errors import SettingsError
from mlproducer.ports import Clock, CountingSpool
from mlproducer.spool.memory import MemorySpool
from mlproducer.spool.sql import PostgresSpool, SqliteSpool


def open_spool(url: str, *, owner: bool = True, clock: Clock | None = None) -> CountingSpool:
    """The spool that `url` names; `await spool.open()` opens it. `clock` is the host's: only a store of one machine has
    its time from there.

    `owner=False` looks at a store, replays and purges, next to running producers or without one, and makes none.

    Raises: SettingsError, naming `ML_SPOOL_URL`.
    """
    scheme, _, rest = url.partition("://")
    if scheme in {"sqlite", "memory"} and "?" in rest:
        raise SettingsError(f"ML_SPOOL_URL: {scheme}:// takes no parameters, and a file's path (ML_DATA_DIR) has no ?")
    match scheme:
        case "sqlite" if rest == "/:memory:":
            raise SettingsError(
                "ML_SPOOL_URL: sqlite:///:memory: is not durable; name a file, or say memory:// if meant"
            )
        case "sqlite" if rest.startswith("/") and len(rest) > 1:
            # As in SQLAlchemy's URLs: three slashes before a relative path, four before an absolute one.
            return SqliteSpool(Path(rest[1:]), owner=owner, clock=clock)
        case "memory" if not rest:
            return MemorySpool(clock)
        case "postgresql" | "postgres" | "postgresql+psycopg":
            return PostgresSpool(url, owner=owner)
        case "redis" | "rediss":
            from mlproducer.spool.redis import RedisSpool  # noqa: PLC0415  # only who names a Redis needs its client

            return RedisSpool(url, owner=owner)
        case _:
            raise SettingsError(
                "ML_SPOOL_URL: it must be sqlite:///path/to/file.db, postgresql://user:password@host/database, "
                "redis://host or memory://"
            )
