"""The judge on trial: the real engine, broken in one way at a time, on a real broker. Each must be seen."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import pytest

from breaking_broker import ALTERED, EVERY, SWALLOWED, TWICE, WITH_A_STRANGER, Break, breaking
from mlproducer.outcome import Unsure, UnsureCause
from mlproducer.reliability import Report, Workshop
from mlproducer.reliability.judge import DEAD, WAITING, Verdict
from mlproducer.reliability.scenarios import OnBroker, make_rooms
from mlproducer.reliability.stage import Scale, Stage
from mlproducer.testing.rabbitmq import PrivateRabbit

TASKS = 20
BROKEN = TASKS // EVERY
RIGHT = {"altered": 0, "false_confirms": 0, "lost": 0, "strangers": 0, "unexplained": 0}


@pytest.fixture(scope="module")
def rooms(rabbit: PrivateRabbit) -> list[str]:
    return make_rooms(rabbit, len(ALTERED) + 6)


async def judged(
    rabbit: PrivateRabbit, rooms: list[str], folder: Path, breaks: Break, spoil: str = ""
) -> tuple[Report, Verdict]:
    async def publishes(stage: Stage) -> None:
        settings = stage.settings()
        async with stage.trial(settings, overrides=breaking(settings, breaks)) as trial:
            receipts = await trial.burst(TASKS)
        stage.book.saw("all is well, says the engine", ok=all(receipt.confirmed for receipt in receipts))
        if spoil:
            with closing(sqlite3.connect(stage.folder / "mlproducer.db")) as spool, spool:
                spool.execute(spoil)

    shop = Workshop(rabbit, folder, rooms, Scale(), patience=0.0)
    report = await shop.run(OnBroker("broken", "", lambda _: 1, publishes), lambda _: None)
    assert report.findings[0].ok, "each has its receipt: the engine sees nothing"
    assert report.verdict is not None
    assert report.verdict.accepted == report.verdict.confirmed == TASKS
    return report, report.verdict


def faults(verdict: Verdict) -> dict[str, int]:
    return {name: count for name, count in asdict(verdict).items() if name in RIGHT and count}


async def test_an_engine_that_is_not_broken_is_found_to_be_right(
    rabbit: PrivateRabbit, rooms: list[str], tmp_path: Path
) -> None:
    report, verdict = await judged(
        rabbit, rooms, tmp_path, lambda publish, _, envelope, settle: publish(envelope, settle)
    )
    assert report.ok
    assert faults(verdict) == {}
    assert (verdict.delivered, verdict.duplicated, verdict.unsure) == (TASKS, 0, 0)


@pytest.mark.parametrize("kind", ALTERED)
async def test_a_message_that_is_not_what_its_caller_gave_is_altered_and_its_task_lost(
    rabbit: PrivateRabbit, rooms: list[str], tmp_path: Path, kind: str
) -> None:
    report, verdict = await judged(rabbit, rooms, tmp_path, ALTERED[kind])
    expected = {"altered": BROKEN, "false_confirms": BROKEN, "lost": BROKEN}
    if kind == "headers-of-another":  # a worker takes it for a second copy of that one
        expected["unexplained"] = BROKEN
    assert faults(verdict) == expected
    assert not report.ok
    assert any("not what their callers gave" in finding.text for finding in report.findings)


async def test_a_confirmed_task_that_is_nowhere_is_a_false_confirm(
    rabbit: PrivateRabbit, rooms: list[str], tmp_path: Path
) -> None:
    report, verdict = await judged(rabbit, rooms, tmp_path, SWALLOWED)
    assert faults(verdict) == {"false_confirms": BROKEN, "lost": BROKEN}
    assert not report.ok


async def test_a_message_that_nobody_asked_for_is_a_stranger(
    rabbit: PrivateRabbit, rooms: list[str], tmp_path: Path
) -> None:
    report, verdict = await judged(rabbit, rooms, tmp_path, WITH_A_STRANGER)
    assert faults(verdict) == {"strangers": BROKEN}
    assert not report.ok


async def test_a_copy_of_a_task_whose_attempts_were_all_answered_is_unexplained(
    rabbit: PrivateRabbit, rooms: list[str], tmp_path: Path
) -> None:
    report, verdict = await judged(rabbit, rooms, tmp_path, TWICE)
    assert faults(verdict) == {"unexplained": BROKEN}
    assert verdict.duplicated == BROKEN
    assert not report.ok


async def test_a_copy_of_a_task_whose_first_attempt_had_no_answer_is_no_fault(
    rabbit: PrivateRabbit, rooms: list[str], tmp_path: Path
) -> None:
    """It landed, and its confirm did not come: it is spooled, and published again."""

    async def publishes(stage: Stage) -> None:
        settings = stage.settings(ml_drain_poll=0.05)
        silent = Unsure(UnsureCause.CONNECTION_LOST)
        overrides = breaking(
            settings,
            lambda publish, _, envelope, settle: publish(envelope, lambda _: settle(silent)),
        )
        async with stage.trial(settings, overrides=overrides) as trial:
            await trial.burst(TASKS)
            await stage.drained(trial)
        stage.book.saw("drained", ok=True)

    shop = Workshop(rabbit, tmp_path, rooms, Scale(), patience=0.0)
    report = await shop.run(OnBroker("unsure", "", lambda _: 1, publishes), lambda _: None)
    assert report.ok
    assert report.verdict is not None
    assert report.verdict.duplicated == report.verdict.unsure >= BROKEN


@pytest.mark.parametrize("table", [WAITING, DEAD])
@pytest.mark.parametrize("spoil", ["body = x''", "routing_key = 'ml.summarize'", "properties = x''"])
async def test_a_row_of_the_spool_that_is_not_what_its_caller_gave_is_altered(
    rabbit: PrivateRabbit, tmp_path: Path, table: str, spoil: str
) -> None:
    """No broker, so that all waits; a dead letter is a row that a person is to find whole."""
    stage_folder = tmp_path / "spoiled"

    async def spools(stage: Stage) -> None:
        settings = stage.settings(rabbitmq_url="amqp://ml:ml_password@127.0.0.1:9/", ml_accept_timeout=0.5)
        async with stage.trial(settings, connected=False) as trial:
            await trial.burst(4)
        with closing(sqlite3.connect(stage_folder / "mlproducer.db")) as spool, spool:
            if table == DEAD:
                columns = "task_id, task_type, routing_key, properties, body, size, accepted_at"
                spool.execute(
                    f"insert into {DEAD} ({columns}, died_at, attempts, reason, text, history) "  # noqa: S608  # our own
                    f"select {columns}, 1, 3, 'nacked', '', '' from {WAITING}"
                )
                spool.execute(f"delete from {WAITING}")  # noqa: S608  # a name of our own
            spool.execute(f"update {table} set {spoil} where rowid in (select min(rowid) from {table})")  # noqa: S608
        stage.book.saw("spooled", ok=True)

    shop = Workshop(rabbit, tmp_path, [rabbit.url], Scale(), patience=0.0)
    report = await shop.run(OnBroker("spoiled", "", lambda _: 1, spools), lambda _: None)
    assert report.verdict is not None
    assert faults(report.verdict) == {"altered": 1, "lost": 1}
    assert report.verdict.in_spool + report.verdict.in_dlq == 3
