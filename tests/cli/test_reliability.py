"""`mlproducer reliability` as a shell sees it: the table, JSON, exit codes, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mlproducer.cli import reliability as command
from mlproducer.cli.app import app
from mlproducer.cli.quickstart import broker
from mlproducer.reliability import MEASURES, Report, Scenario, Workshop
from mlproducer.reliability.judge import Verdict
from mlproducer.reliability.report import Finding
from mlproducer.reliability.scenarios import make_rooms
from mlproducer.reliability.stage import Scale
from mlproducer.testing.rabbitmq import PrivateRabbit

SMALL = Scale(callers=5, tasks=100)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["reliability", *words])


@pytest.fixture
def on_shared_node(rabbit: PrivateRabbit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenarios that harm no broker may use the run's own, and need not wait for another."""

    @asynccontextmanager
    async def workshop(_: Sequence[Scenario]) -> AsyncIterator[Workshop]:
        await asyncio.sleep(0)
        yield Workshop(rabbit, tmp_path, make_rooms(rabbit, 1), SMALL)

    monkeypatch.setattr(command, "workshop", workshop)


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[Report]:
    """What the scenarios are made to report, in turn."""
    reports: list[Report] = []

    async def one(*_: object) -> Report:
        await asyncio.sleep(0)
        return reports.pop(0)

    monkeypatch.setattr(Workshop, "run", one)
    return reports


def report(scenario: str = "thundering-herd", *, lost: int = 0, seen: bool = True) -> Report:
    verdict = Verdict(1_000, 999, 1_000 - lost, 0, 0, lost, 2)
    return Report(scenario, 1.0, verdict, None, 1.5, (Finding(seen, "the breaker opened"),))


@pytest.mark.usefixtures("on_shared_node")
def test_a_scenario_says_what_it_does_shows_its_steps_and_ends_in_a_table() -> None:
    result = run("message-retry")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "Tasks for a missing queue and for a full one spend their attempts, die, and come back by replay." in lines
    assert any(line.startswith("shortened: ML_RETRY_FIRST 0.1 s (default 1 s), ") for line in lines)
    assert [line.split()[0] for line in lines if line.startswith("  ") and "/4 " in line] == [
        "1/4",
        "2/4",
        "3/4",
        "4/4",
    ]
    assert "✓ 15 tasks went to the dead letter queue: 5 nacked, 10 returned" in lines
    row = next(line for line in lines if line.startswith("message-retry "))
    assert row.split()[1:9] == ["21", "21", "21", "0", "0", "0", "0", "–"]
    assert any(line.startswith("✓ nothing was lost (1 scenario") for line in lines)
    assert "\x1b" not in result.stdout


@pytest.mark.usefixtures("on_shared_node")
def test_json_is_a_line_a_scenario_with_the_names_of_the_table() -> None:
    result = run("message-retry", "--json")
    assert result.exit_code == 0, result.output
    (facts,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert facts["scenario"] == "message-retry"
    assert [facts[name] for name in MEASURES[:-1]] == [21, 21, 21, 0, 0, 0, 0, None]
    assert facts["time_to_recover"] > 0
    assert facts["ok"] is True
    assert facts["settings"]["ML_RETRY_CAP"] == {"value": 0.4, "default": 10.0}


def test_the_herd_needs_no_broker_and_invents_no_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "installed", lambda: False)
    result = run("thundering-herd")
    assert result.exit_code == 0, result.output
    assert "1         0.5 s   ████████████████████████ 1,000  ██" in result.stdout
    row = next(line for line in result.stdout.splitlines() if line.startswith("thundering-herd "))
    assert row.split()[1:] == ["–"] * 9
    (facts,) = [json.loads(line) for line in run("thundering-herd", "--json").stdout.splitlines()]
    assert [facts[name] for name in MEASURES] == [None] * 9
    assert facts["peak_without_jitter"] == 1_000
    assert facts["peak_with_jitter"] < 100


def test_one_lost_task_is_exit_code_1_and_named(reported: list[Report]) -> None:
    reported.append(report(lost=1))
    result = run("thundering-herd")
    assert result.exit_code == 1
    assert "✗ 1 task lost; look at thundering-herd" in result.stdout


def test_a_fault_that_was_not_seen_is_exit_code_1_though_nothing_is_lost(reported: list[Report]) -> None:
    reported += [report(seen=False)] * 2
    result = run("thundering-herd")
    assert result.exit_code == 1
    assert "✗ the breaker opened" in result.stdout
    assert "✗ 0 tasks lost; look at thundering-herd" in result.stdout
    again = run("thundering-herd", "--json")
    assert again.exit_code == 1
    assert json.loads(again.stdout)["ok"] is False


def test_a_narrow_terminal_gets_a_paragraph_a_scenario(reported: list[Report], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlproducer.cli.output.PLAIN_WIDTH", 80)
    reported.append(report())
    words = " ".join(run("thundering-herd").stdout.split())
    assert "thundering-herd: accepted 1,000, confirmed 999, delivered 1,000, in spool 0" in words
    assert "time to detect –, time to recover 1.50 s" in words


def test_an_unknown_scenario_is_a_usage_error_that_names_those_there_are() -> None:
    result = run("nonsense")
    assert result.exit_code == 2
    assert "circuit-breaker" in result.output


def test_without_rabbitmq_server_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "installed", lambda: False)
    monkeypatch.setattr(broker, "_may_install", lambda: False)
    result = run("circuit-breaker")
    assert result.exit_code == 1
    assert "this machine has no rabbitmq-server" in result.stderr
    assert "apt-get install rabbitmq-server" in result.stderr


def test_a_signal_while_the_broker_starts_ends_in_130_and_leaves_nothing_behind(tmp_path: Path) -> None:
    words = (sys.executable, "-m", "mlproducer.cli", "reliability", "connection-resilience")
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, env=environment, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "starting a private RabbitMQ ...\n"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=100)
    assert process.returncode == 130, out + err
    assert "stopping" in err
    assert "Traceback" not in err
    assert list(tmp_path.glob("mlproducer-reliability-*")) == []
    assert not [p for p in Path("/proc").glob("[0-9]*/environ") if _names(p, tmp_path)]


def _names(environ: Path, folder: Path) -> bool:
    """Whether a process works below the folder, by its environment; one that ended meanwhile does not."""
    try:
        return f"{folder}/mlproducer-reliability-".encode() in environ.read_bytes()
    except OSError:
        return False
