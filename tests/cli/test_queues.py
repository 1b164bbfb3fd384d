"""The retry queue and the dead letter queue from the command line, on a real spool."""

import asyncio
import getpass
import io
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from mlproducer.cli.app import app
from mlproducer.cli.output import Output, output
from mlproducer.cli.store import in_time, looking_at, time_of
from mlproducer.cli.sweep import sweep
from mlproducer.envelope.encode import Encoder
from mlproducer.envelope.types import TaskTypes
from mlproducer.errors import SpoolUnavailable
from mlproducer.rows import Again, Attempted, Bury, DeadFilter, NewRow
from mlproducer.settings import Settings
from mlproducer.task import Task
from mlproducer.testing.clock import WrongClock
from mlproducer.wiring import spool_for

SECRET = "words that only the worker should read"
HISTORY = (Attempted(1200.0, "nacked"), Attempted(1300.0, "connection_lost", None, "reset"))


def run(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, words, input=stdin)


def facts(*words: str, stdin: str | None = None) -> dict[str, Any]:
    """The one JSON document of a command."""
    result = run(*words, "--json", stdin=stdin)
    (line,) = result.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def shell(*words: str) -> str:
    """What a command of its own process prints."""
    command = (sys.executable, "-m", "mlproducer.cli", *words, "--json")
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def dead(*words: str) -> list[str]:
    return [letter["task_id"] for letter in facts("dlq", "list", *words)["dead_letters"]]


def waiting() -> set[str]:
    return {task["task_id"] for task in facts("retry", "list")["tasks"]}


def audits() -> list[tuple[str, str, list[str]]]:
    return [(each["by"], each["action"], each["task_ids"]) for each in facts("dlq", "audit")["audits"]]


def task(task_id: str, kind: str = "embed_vectors") -> Task:
    return Task(task_type=kind, payload={"share_id": task_id, "content": SECRET}, id=task_id)


async def fill(dead: list[tuple[Task, Bury]], waiting: list[Task]) -> None:
    """Put tasks where a producer would have left them."""
    encoder = Encoder(TaskTypes.builtin(), "test", 1_000_000)
    spool = spool_for(Settings.load())
    await spool.open()
    for letter, verdict in dead:
        await spool.put(NewRow(encoder.encode(letter), 1000.0))
        (lease,) = await spool.lease(1, hold=60)
        assert all(await spool.settle([(lease, verdict)]))
    for each in waiting:
        await spool.put(NewRow(encoder.encode(each), 1000.0))
        (lease,) = await spool.lease(1, hold=60)
        again = Again(5000, 1, "nacked", "queue ml.embed is full", alone=False, history=HISTORY)
        assert all(await spool.settle([(lease, again)]))
    await spool.close()


@pytest.fixture
def letters() -> None:
    history = (Attempted(1490.0, "returned", 312, "NO_ROUTE"), Attempted(1500.0, "returned", 312, "NO_ROUTE again"))
    returned = Bury(1500.0, 3, "returned", 312, "NO_ROUTE: no queue is bound", history)
    nacked = Bury(time.time() - 60, 3, "nacked", None, "queue ml.embed is full")
    asyncio.run(
        fill([(task("d1"), returned), (task("d2", "summarize_llm"), nacked), (task("d3"), nacked)], [task("w1")])
    )


@pytest.fixture
def many() -> None:
    """Twelve dead letters, of one moment."""
    nacked = Bury(1500.0, 3, "nacked", None, "queue ml.embed is full")
    asyncio.run(fill([(task(f"m{n:02}"), nacked) for n in range(12)], []))


# retry ----------------------------------------------------------------------------------------------------------------


def test_retry_list_without_a_spool_names_the_setting() -> None:
    result = run("retry", "list")
    assert result.exit_code == 1
    assert "ML_DATA_DIR" in result.stderr


@pytest.mark.usefixtures("letters")
def test_retry_list_shows_attempts_the_next_one_and_the_last_error_and_no_content() -> None:
    result = run("retry", "list")
    assert result.exit_code == 0
    assert "1 task in the retry queue" in result.stdout
    assert "queue ml.embed is full" in result.stdout
    assert "in 83." in result.stdout
    listed = facts("retry", "list")
    assert listed["total"] == 1
    (waits,) = listed["tasks"]
    assert (waits["task_id"], waits["attempts"], waits["cause"]) == ("w1", 1, "nacked")
    assert waits["due_at"] > time.time()
    assert SECRET not in json.dumps(listed) + result.output


@pytest.mark.usefixtures("letters")
def test_retry_show_tells_the_history_and_what_the_worker_would_get() -> None:
    result = run("retry", "show", "w1")
    assert result.exit_code == 0, result.output
    assert "1 spent" in result.stdout
    assert "connection_lost" in result.stdout
    assert SECRET in result.stdout
    shown = facts("retry", "show", "w1")
    assert [(each["at"], each["outcome"]) for each in shown["history"]] == [(1200, "nacked"), (1300, "connection_lost")]
    assert shown["message"]["kwargs"]["content"]["text"] == SECRET
    missing = run("retry", "show", "d1")
    assert missing.exit_code == 1
    assert "it is in the dead letter queue" in missing.stderr


# dlq: look ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("letters")
def test_dlq_list_takes_filters() -> None:
    assert sorted(dead()) == ["d1", "d2", "d3"]
    assert dead("--type", "summarize_llm") == ["d2"]
    assert dead("--reason", "returned") == ["d1"]
    assert sorted(dead("--text", "IS FULL")) == ["d2", "d3"]
    assert dead("--older-than", "2h") == ["d1"]
    assert sorted(dead("--newer-than", "2h")) == ["d2", "d3"]
    assert dead("--newer-than", "2h", "--older-than", "90m") == []
    assert dead("--limit", "1", "--offset", "2") == ["d1"]
    assert "None of 3 dead letters matches" in run("dlq", "list", "--type", "none").stdout
    assert "none from --offset on" in run("dlq", "list", "--offset", "3").stdout


@pytest.mark.usefixtures("letters")
def test_dlq_list_counts_and_shows_no_content() -> None:
    listed = facts("dlq", "list", "--reason", "nacked", "--limit", "1")
    assert (listed["total"], listed["matched"], len(listed["dead_letters"])) == (3, 2, 1)
    assert SECRET not in json.dumps(listed)
    assert SECRET not in run("dlq", "list").output


@pytest.mark.parametrize("command", ["list", "replay", "purge"])
@pytest.mark.parametrize("option", ["--older-than", "--newer-than"])
def test_a_wrong_age_is_exit_2_and_names_the_option(command: str, option: str) -> None:
    result = run("dlq", command, option, "soon")
    assert result.exit_code == 2
    assert option in result.stderr
    assert "15m" in result.stderr


@pytest.mark.usefixtures("letters")
def test_dlq_show_tells_why_what_each_attempt_came_to_and_what_the_worker_would_get() -> None:
    text = run("dlq", "show", "d1").stdout
    assert "returned (312)" in text
    assert "NO_ROUTE again" in text
    assert "vector_service.tasks.generate_embeddings" in text
    shown = facts("dlq", "show", "d1")
    assert shown["text"] == "NO_ROUTE: no queue is bound"
    assert [(each["outcome"], each["code"]) for each in shown["history"]] == [("returned", 312)] * 2
    assert SECRET in json.dumps(shown["message"])
    assert "no attempt yet" in run("dlq", "show", "d2").stdout
    missing = run("dlq", "show", "w1")
    assert missing.exit_code == 1
    assert "it waits in the retry queue" in missing.stderr


# dlq: replay ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("letters")
@pytest.mark.parametrize("action", ["replay", "purge"])
def test_a_dry_run_shows_which_and_changes_nothing(action: str) -> None:
    result = run("dlq", action, "--reason", "nacked", "--dry-run")
    assert result.exit_code == 0
    assert f"Would {action} 2 dead letters" in result.stdout
    assert "d2" in result.stdout
    assert "d1" not in result.stdout
    found = facts("dlq", action, "d1", "--dry-run", "--by", "ada")
    done = "replayed" if action == "replay" else "removed"
    assert found == {"matched": 1, done: 0, "dry_run": True, "missing": [], "by": "ada", "interrupted": False}
    assert len(dead()) == 3
    assert waiting() == {"w1"}
    assert audits() == []


@pytest.mark.usefixtures("letters")
def test_dlq_replay_by_id_needs_no_question_and_reports_unknown_ids() -> None:
    result = run("dlq", "replay", "d1", "nobody", "--by", "[ada]")
    assert result.exit_code == 1
    assert "no dead letter nobody" in result.stderr
    assert "1 task back in the retry queue; recorded as done by [ada]" in result.stdout
    assert sorted(dead()) == ["d2", "d3"]
    assert waiting() == {"w1", "d1"}
    assert audits() == [("[ada]", "replay", ["d1"])]


@pytest.mark.usefixtures("letters")
def test_dlq_replay_of_all_asks_first_and_says_who_it_is_recorded_as() -> None:
    refused = run("dlq", "replay", "--all", stdin="n\n")
    assert refused.exit_code == 1
    assert "Replay 3 dead letters?" in refused.stderr
    assert getpass.getuser() in refused.stderr
    assert "nothing was changed" in refused.stderr
    assert len(dead()) == 3
    assert run("dlq", "replay", "--all", stdin="y\n").exit_code == 0
    assert dead() == []
    assert "is empty" in run("dlq", "list").stdout
    ((by, action, ids),) = audits()
    assert (by, action, sorted(ids)) == (getpass.getuser(), "replay", ["d1", "d2", "d3"])


@pytest.mark.parametrize("action", ["replay", "purge"])
def test_exactly_one_way_to_choose(action: str) -> None:
    for words in ([], ["d1", "--all"], ["d1", "--reason", "nacked"], ["--all", "--newer-than", "1h"]):
        result = run("dlq", action, *words)
        assert result.exit_code == 2
        assert "--all" in result.stderr


@pytest.mark.usefixtures("many")
def test_a_limit_takes_so_many_and_the_question_says_of_how_many() -> None:
    asked = run("dlq", "replay", "--reason", "nacked", "--limit", "5", stdin="y\n")
    assert "Replay 5 of 12 dead letters?" in asked.stderr
    assert "5 tasks back" in asked.stdout
    assert dead("--limit", "100") == [f"m{n:02}" for n in range(5, 12)]
    assert facts("dlq", "replay", "--all", "--limit", "3", "--yes")["replayed"] == 3


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("rate", ["1000", "1000/s", "60000/min", "3600000/h"])
def test_a_rate_is_tasks_in_a_second_a_minute_or_an_hour(rate: str) -> None:
    found = facts("dlq", "replay", "--all", "--yes", "--rate", rate)
    assert found["replayed"] == 12


@pytest.mark.parametrize("rate", ["0", "fast", "-1", "1/day", "1e9"])
def test_a_wrong_rate_is_exit_2_and_names_the_option(rate: str) -> None:
    result = run("dlq", "replay", "--all", f"--rate={rate}")
    assert result.exit_code == 2
    assert "--rate" in result.stderr


def test_a_wrong_name_for_the_audit_is_exit_2_and_names_the_option() -> None:
    result = run("dlq", "replay", "--all", "--by", "x" * 200)
    assert result.exit_code == 2
    assert "--by" in result.stderr


@pytest.mark.usefixtures("letters")
def test_nothing_that_matches_is_said_and_asks_nothing() -> None:
    result = run("dlq", "replay", "--reason", "none")
    assert result.exit_code == 0
    assert "nothing to replay" in result.stdout


@pytest.mark.usefixtures("letters")
async def test_replay_and_purge_work_beside_a_running_producer() -> None:
    spool = spool_for(Settings.load())
    await spool.open()
    try:
        replayed = await asyncio.to_thread(shell, "dlq", "replay", "--reason", "nacked", "--yes", "--by", "ada")
        assert {entry.task_id for entry in await spool.waiting(limit=10)} == {"w1", "d2", "d3"}
        removed = await asyncio.to_thread(shell, "dlq", "purge", "--all", "--yes")
        assert await spool.count_dead(DeadFilter()) == 0
    finally:
        await spool.close()
    expected = {"matched": 2, "replayed": 2, "dry_run": False, "missing": [], "by": "ada", "interrupted": False}
    assert json.loads(replayed) == expected
    assert json.loads(removed)["removed"] == 1


# dlq: purge and audit -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("letters")
def test_dlq_purge_asks_even_for_ids_and_says_that_it_is_for_good() -> None:
    refused = run("dlq", "purge", "d1", stdin="n\n")
    assert refused.exit_code == 1
    assert "Remove 1 dead letter for good?" in refused.stderr
    assert len(dead()) == 3
    unanswered = run("dlq", "purge", "--all", stdin="")
    assert unanswered.exit_code == 1
    assert len(dead()) == 3
    done = run("dlq", "purge", "d1", stdin="y\n")
    assert "1 task removed for good" in done.stdout
    assert sorted(dead()) == ["d2", "d3"]
    assert run("dlq", "purge", "--all", "--yes").exit_code == 0
    assert dead() == []
    assert waiting() == {"w1"}


@pytest.mark.usefixtures("letters")
def test_dlq_audit_lists_who_did_what_and_when() -> None:
    assert "Nobody has replayed" in run("dlq", "audit").stdout
    before = time.time()
    run("dlq", "replay", "d1", "--by", "ada")
    run("dlq", "purge", "--reason", "nacked", "--yes", "--by", "bob")
    found = facts("dlq", "audit")["audits"]
    assert [(each["by"], each["action"], each["count"]) for each in found] == [
        ("bob", "purge", 2),
        ("ada", "replay", 1),
    ]
    assert found[0]["detail"] == "reason 'nacked'"
    assert before <= found[1]["at"] <= time.time()
    shown = run("dlq", "audit").stdout
    assert "by id: d1" in shown
    assert "bob" in shown
    assert audits()[1:] == [("ada", "replay", ["d1"])]
    assert facts("dlq", "audit", "--limit", "1", "--offset", "1")["audits"] == found[1:]
    assert "None from --offset on" in run("dlq", "audit", "--offset", "9").stdout


# on the way -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("many")
def test_ctrl_c_stops_a_paced_replay_between_two_chunks_and_the_rest_stays_dead() -> None:
    with subprocess.Popen(
        (sys.executable, "-m", "mlproducer.cli", "dlq", "replay", "--all", "--yes", "--rate", "2/min", "--json"),
        env={**os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        end = time.monotonic() + 30
        while not audits() and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)  # in the middle of a wait of 30 s
        told, said = process.communicate(timeout=20)
    assert process.returncode == 130, said
    found = json.loads(told)
    assert (found["replayed"], found["interrupted"]) == (1, True)
    assert "11 of 12 dead letters stay as they were" in said
    assert len(dead("--limit", "100")) == 11
    ((_, _, ids),) = audits()
    assert waiting() == set(ids)


@pytest.mark.usefixtures("many")
async def test_an_error_on_the_way_says_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    async def failing(_: object) -> Any:
        async for step in _.replay(DeadFilter(), by="ada", rate=1000.0):  # type: ignore[attr-defined]  # a Replayer
            yield step
            if step.taken:
                raise SpoolUnavailable("the disk went")

    with pytest.raises(SpoolUnavailable):
        await sweep(Settings.load(), output(), "replaying", failing)
    assert "ended by an error after 12 of 12" in capsys.readouterr().err


@pytest.mark.usefixtures("many")
async def test_a_bar_is_drawn_on_a_terminal_and_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, plain = io.StringIO(), io.StringIO()
    monkeypatch.setattr("mlproducer.cli.sweep._EVERY", 0.0)
    for stream, terminal, chunk in ((drawn, True, slice(0, 6)), (plain, False, slice(6, 12))):
        ids = [f"m{n:02}" for n in range(12)][chunk]
        out = Output(
            Console(file=io.StringIO()), Console(file=stream, force_terminal=terminal, width=100), as_json=False
        )
        swept = await sweep(Settings.load(), out, "replaying", lambda each, ids=ids: each.replay(ids, by="ada"))  # type: ignore[misc]  # the loop's own ids
        assert (swept.done, swept.total) == (6, 6)
    assert "6/6" in drawn.getvalue()
    assert plain.getvalue().splitlines() == ["replaying: 0 of 6", "replaying: 6 of 6"]


async def test_an_age_is_counted_by_the_clock_of_the_spools_server(
    postgres_schema_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlproducer.cli.store.SystemClock", lambda: WrongClock(3_600.0))
    owner = spool_for(Settings.load(ml_spool_url=postgres_schema_url))
    await owner.open()
    await owner.close()
    async with looking_at(Settings.load(ml_spool_url=postgres_schema_url)) as spool:
        clock = await time_of(spool)
        half_an_hour_ago = DeadFilter(older_than=time.time() + 3_600.0 - 1_800.0)  # as a host that is ahead has it
        older_than = in_time(half_an_hour_ago, clock).older_than
        assert older_than is not None
        assert abs(older_than - (time.time() - 1_800.0)) < 60, (
            "else letters that are half an hour young would be purged"
        )
