"""The sentence at the top of the console: one for each trouble, the worst first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlproducer.http.console.verdict import Level, verdict
from mlproducer.status import Check, CheckStatus, Health, Status

FINE = Status(
    accepting=True,
    ready=True,
    reasons=(),
    connection="connected",
    node="mq:5672",
    blocked=False,
    alarm="",
    last_error="",
    reconnect_attempts=0,
    breaker="closed",
    breaker_failures=0,
    in_flight=0,
    spool_tasks=0,
    spool_bytes=0,
    spool_oldest_age=None,
    dead=0,
    last_confirm_at=None,
    uptime=1.0,
)
HEALTHY = Health((Check("spool", CheckStatus.OK, ""),))
LOST = {"connection": "waiting", "last_error": "mq:5672: connection refused", "reconnect_attempts": 1}


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, Level.OK, "Connected to mq:5672."),
        ({"spool_tasks": 2}, Level.OK, "2 tasks wait for the time that they are due"),
        ({"accepting": False, **LOST}, Level.BAD, "starting or stopping"),
        ({"connection": "connecting"}, Level.WARN, "mq:5672. New tasks are accepted and kept in the spool."),
        (LOST, Level.BAD, "Not connected to mq:5672: connection refused. New tasks are accepted and kept"),
        ({**LOST, "connection": "connecting", "spool_tasks": 1}, Level.BAD, "in the spool: 1 task waits."),
        ({**LOST, "connection": "exhausted", "spool_tasks": 1_200}, Level.BAD, "1,200 tasks wait"),
        ({**LOST, "connection": "exhausted"}, Level.BAD, "All reconnect attempts are spent"),
        ({"blocked": True, "alarm": "low on disk"}, Level.BAD, "memory or disk alarm (low on disk)"),
        ({"breaker": "open", "breaker_failures": 10}, Level.BAD, "open after 10 failures in a row"),
        ({"breaker": "half_open"}, Level.WARN, "half-open"),
        ({"dead": 3}, Level.WARN, "3 in the dead letter queue"),
    ],
)
def test_each_state_has_its_sentence(changes: dict[str, object], level: Level, words: str) -> None:
    found = verdict(replace(FINE, **changes), HEALTHY, troubled=0)  # type: ignore[arg-type]  # names checked by replace
    assert found.level is level
    assert words in found.detail
    assert not any(letter.isdecimal() for letter in found.title), "a title that counts would be read out every second"


def test_tasks_that_wait_for_the_broker_are_amber_and_come_before_the_dead() -> None:
    found = verdict(replace(FINE, spool_tasks=5, dead=1), HEALTHY, troubled=5)
    assert (found.level, found.title) == (Level.WARN, "New tasks get through, others wait")


def test_a_spool_that_cannot_be_used_is_red_whatever_else_is() -> None:
    broken = Health((Check("spool", CheckStatus.FAILED, "the disk is full"),))
    for status in (FINE, replace(FINE, blocked=True)):
        found = verdict(status, broken, troubled=0)
        assert found.level is Level.BAD
        assert "the disk is full" in found.detail
