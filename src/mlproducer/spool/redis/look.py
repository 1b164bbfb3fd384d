"""What a server says of itself when a connection is made, and whether a promise may rest on it. Pure.

The promise is "committed in the durable spool". Redis keeps it only with an append-only file: without one, everything
since the last snapshot is gone with the server. How much of the file is certain is `appendfsync`'s: with `always` a
commit is on the disk before it is answered; with `everysec` the last moments are not.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from mlproducer.spool.redis.address import Persistence

_UNSAFE: Final = "or say ?persistence=unsafe in ML_SPOOL_URL if you mean it"


class Facts(Struct, frozen=True):
    """None: the server does not say."""

    aof: bool | None
    fsync: str | None
    """`always`, `everysec` or `no`."""
    eviction: str | None
    """`maxmemory-policy`."""
    cluster: bool
    replica: bool
    loading: bool = False
    """While it reads its append-only file, it says that it has none."""


def read_facts(info: str, fsync: str | None) -> Facts:
    """`info` is the answer to INFO, `fsync` that of CONFIG GET appendfsync, where the server gives it."""
    said = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    aof = said.get("aof_enabled")
    return Facts(
        aof=None if aof is None else aof == "1",
        fsync=fsync,
        eviction=said.get("maxmemory_policy"),
        cluster=said.get("cluster_enabled") == "1",
        replica=said.get("role") == "slave",
        loading=said.get("loading") == "1",
    )


def refusal(facts: Facts, persistence: Persistence) -> str | None:
    """Why nothing may be accepted on this server: what it is, and what to do; None if it may be used."""
    if facts.loading:
        return "it loads its data after a start, and will answer when that is done"
    if facts.replica and not facts.cluster:
        return "it is a read-only replica: name its master"  # in a cluster, calls find their way
    if persistence is Persistence.UNSAFE:
        return None
    return _not_kept(facts) or _not_synced(facts, persistence)


def _not_kept(facts: Facts) -> str | None:
    if facts.aof is None or facts.eviction is None:
        return f"it does not tell whether it keeps what it is given (INFO persistence, memory): allow INFO, {_UNSAFE}"
    if not facts.aof:
        return f"it has no append-only file: what is accepted would be gone with it: set `appendonly yes`, {_UNSAFE}"
    if facts.eviction != "noeviction":
        asked = "set `maxmemory-policy noeviction`"
        return f"it removes data when memory is short (maxmemory-policy {facts.eviction}): {asked}, {_UNSAFE}"
    return None


def _not_synced(facts: Facts, persistence: Persistence) -> str | None:
    if facts.fsync == "no":
        return f"it never syncs its append-only file (appendfsync no): set `appendfsync always`, {_UNSAFE}"
    if persistence is Persistence.ALWAYS and facts.fsync != "always":
        has = facts.fsync or "no word of it (is CONFIG GET forbidden?)"
        return f"?persistence=always in ML_SPOOL_URL asks for `appendfsync always`, and it has {has}"
    return None


def warning(facts: Facts, persistence: Persistence) -> str | None:
    """What is not as safe as it could be, though it was asked for."""
    if persistence is Persistence.UNSAFE:
        kept = facts.aof and facts.eviction == "noeviction" and facts.fsync == "always"
        return None if kept else "tasks accepted here may be lost with the server (?persistence=unsafe in ML_SPOOL_URL)"
    if facts.fsync == "everysec":
        # A second between two syncs, and Redis lets one that is late have a second more.
        return "a crash of the server may lose what it accepted in the last 1 to 2 s: set `appendfsync always`"
    if facts.fsync is None:
        return (
            "it does not tell how often its append-only file is synced (CONFIG GET appendfsync is forbidden): with "
            "everysec, the usual one, a crash may lose what it accepted in the last 1 to 2 s"
        )
    return None
