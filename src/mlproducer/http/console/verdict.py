"""The one sentence at the top of the console: are tasks getting through, and if not, why not. Pure.

The rows below are asked in order, and the first that fits speaks. Titles have no numbers that change by the second,
because a screen reader reads each new title out.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Struct

from mlproducer.status import CheckStatus, Health, Status


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    BAD = "bad"


class Verdict(Struct, frozen=True):
    level: Level
    title: str
    detail: str


_SAFE: Final = "New tasks are accepted and kept in the spool"


def verdict(status: Status, health: Health, *, troubled: int) -> Verdict:
    """`troubled` is how many waiting tasks are known not to wait just for their own time (`eta`)."""
    return _stopped(status) or _spool(health) or _link(status) or _breaker(status) or _through(status, troubled)


def _stopped(status: Status) -> Verdict | None:
    if status.accepting:
        return None
    return Verdict(Level.BAD, "No tasks are accepted", "The service is starting or stopping.")


def _spool(health: Health) -> Verdict | None:
    for check in health.checks:
        if check.name == "spool" and check.status is CheckStatus.FAILED:
            return Verdict(Level.BAD, "The spool cannot be used", f"What is not confirmed is refused. {check.detail}")
    return None


def _link(status: Status) -> Verdict | None:
    if status.connection == "connected":
        if not status.blocked:
            return None
        alarm = f" ({status.alarm})" if status.alarm else ""
        why = f"RabbitMQ blocks publishers: it has a memory or disk alarm{alarm}."
        return Verdict(Level.BAD, "Tasks are not getting through", f"{why} {_kept(status)}")
    if not status.last_error and not status.reconnect_attempts:
        return Verdict(Level.WARN, "Connecting to the broker", f"{status.node}. {_kept(status)}")
    spent = (
        " All reconnect attempts are spent; it is tried once at each health check, and now if you say Reconnect."
        if status.connection == "exhausted"
        else ""
    )
    error = status.last_error.removeprefix(f"{status.node}: ") or "the link was closed"
    why = f"Not connected to {status.node}: {error}."
    return Verdict(Level.BAD, "Tasks are not getting through", f"{why}{spent} {_kept(status)}")


def _breaker(status: Status) -> Verdict | None:
    match status.breaker:
        case "open":
            why = f"The circuit breaker is open after {status.breaker_failures} failures in a row."
            return Verdict(Level.BAD, "Tasks are not getting through", f"{why} {_kept(status)}")
        case "half_open":
            why = "The circuit breaker is half-open: one task at a time tries the broker."
            return Verdict(Level.WARN, "Trying the broker again", f"{why} {_kept(status)}")
        case _:
            return None


def _through(status: Status, troubled: int) -> Verdict:
    if troubled:
        why = f"{_tasks(status.spool_tasks)} in the retry queue, on the way to the broker or to their next attempt."
        return Verdict(Level.WARN, "New tasks get through, others wait", why)
    if status.dead:
        why = f"{status.dead:,} in the dead letter queue: look at why, then replay or remove."
        return Verdict(Level.WARN, "Tasks are getting through, some are dead", why)
    scheduled = f" {_tasks(status.spool_tasks)} for the time that they are due." if status.spool_tasks else ""
    return Verdict(Level.OK, "Tasks are getting through", f"Connected to {status.node}.{scheduled}")


def _kept(status: Status) -> str:
    return f"{_SAFE}: {_tasks(status.spool_tasks)}." if status.spool_tasks else f"{_SAFE}."


def _tasks(count: int) -> str:
    return f"{count:,} task{'s wait' if count != 1 else ' waits'}"
