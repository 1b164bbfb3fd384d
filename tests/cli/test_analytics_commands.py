"""`mlproducer analytics`, on a real spool that a producer has left."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mlproducer.cli.analytics import _ratio
from mlproducer.cli.app import app
from mlproducer.core.results import ResultStatus, TaskResult, tallies_of
from mlproducer.rows import CountKey, Tally
from mlproducer.settings import Settings
from mlproducer.wiring import SystemClock, spool_for

CLOCK = SystemClock()


def run(*words: str) -> Result:
    result = CliRunner().invoke(app, ("analytics", *words))
    assert result.exit_code == 0, result.output
    return result


def facts(*words: str) -> dict[str, Any]:
    (line,) = run(*words, "--json").stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


async def fill(*results: TaskResult) -> None:
    spool = spool_for(Settings.load())
    await spool.open()
    hour = int(CLOCK.now() // 3_600)
    published = {
        CountKey(hour, "transcribe_whisper", "accepted"): 1_000,
        CountKey(hour, "transcribe_whisper", "confirmed", "0.005"): 999,
        CountKey(hour, "transcribe_whisper", "dead", "returned"): 1,
    }
    tallies = [tally for result in results for tally in tallies_of(result, 9e9)]
    await spool.count([*tallies, Tally("flush", 9e9, published)])
    await spool.close()


@pytest.fixture
def day() -> None:
    costs = (("t1", "large", "0.000000001"), ("t2", "small", "1.5"))
    results = [
        TaskResult(task_id, "transcribe_whisper", CLOCK.now(), ResultStatus.SUCCEEDED, 12.0, Decimal(cost), model)
        for task_id, model, cost in costs
    ]
    asyncio.run(fill(*results))


@pytest.mark.usefixtures("day")
def test_the_summary_is_a_table_or_json() -> None:
    shown = run("summary").stdout
    for words in ("transcribe_whisper", "1,000", "99.90%", "all"):
        assert words in shown
    found = facts("summary", "--hours", "1")
    assert found["total"]["succeeded"] == 2
    assert found["by_type"]["transcribe_whisper"]["delivery_ratio"] == 0.999


@pytest.mark.usefixtures("day")
def test_costs_are_by_model_and_exact() -> None:
    shown = run("costs").stdout
    assert "transcribe_whisper/large" in shown
    assert "1.500000001" in shown
    found = facts("costs")
    assert found["by_model"]["transcribe_whisper/large"]["cost"] == "0.000000001"


@pytest.mark.usefixtures("day")
def test_a_budget_shows_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    assert facts("budget")["state"] == "unlimited"
    monkeypatch.setenv("ML_BUDGET_DAILY", "1.5")
    assert facts("budget")["daily"]["state"] == "exceeded"
    shown = run("budget").stdout
    assert "budget: exceeded" in shown
    assert "-0.000000001" in shown


def test_one_task_of_a_million_that_is_missing_is_not_rounded_away() -> None:
    assert [_ratio(ratio) for ratio in (1.0, 0.999999, 0.5, 0.0, None)] == ["100.00%", "99.99%", "50.00%", "0.00%", "–"]


def test_nothing_is_said_in_words() -> None:
    asyncio.run(empty())
    assert "Nothing happened in the last 24 hours" in run("summary").stdout
    assert "No worker reported a cost in the last 1 hour." in run("costs", "--hours", "1").stdout


async def empty() -> None:
    spool = spool_for(Settings.load())
    await spool.open()
    await spool.close()
