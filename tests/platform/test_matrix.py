"""`make matrix`: which rows are run, what is read from their reports, and what the page says of them."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from matrix import __main__ as program
from matrix.places import CHECKOUT, PACKAGES, Missing
from matrix.plan import ROWS, Row, chosen
from matrix.results import Book, Result, Step, of_junit, of_reliability
from matrix.running import run
from matrix.table import BEGIN, END, text, write

BROKER = Row("broker", "3.11", "4.0")
JUNIT = """<testsuites><testsuite>
<testcase classname="tests.amqp.test_a" name="test_one"/>
<testcase classname="tests.integration.test_b" name="test_two[newest]"/>
<testcase classname="tests.integration.test_b" name="test_two[5.4]"><failure message="no"/></testcase>
<testcase classname="tests.integration.test_b" name="test_three[5.4]"><error message="no"/></testcase>
<testcase classname="tests.integration.test_b" name="test_four"><skipped message="why"/></testcase>
</testsuite></testsuites>"""


def passed(row: Row, commit: str = "abc") -> Result:
    return Result(row.name, "2026-11-27 22:00", commit, 61.0, (Step("tests", 3, 0),), {"Python": "3.11.7"})


def test_nothing_asked_for_is_everything() -> None:
    assert chosen([], [], []) == list(ROWS)


def test_a_broker_a_python_or_a_kind_chooses_its_rows() -> None:
    assert {row.broker for row in chosen([], ["4.3"], [])} == {"4.3"}
    assert {row.python for row in chosen([], [], ["3.14"])} == {"3.14"}
    assert {row.kind for row in chosen(["unit"], [], [])} == {"unit"}


@pytest.mark.parametrize(("broker", "python"), [("4.3", "3.14"), ("4.3", "3.12")])
def test_a_pair_is_one_row_whether_the_matrix_has_it_or_not(broker: str, python: str) -> None:
    assert chosen([], [broker], [python]) == [Row("broker", python, broker)]


def test_a_report_is_counted_by_the_names_that_were_asked_for(tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    report.write_text(JUNIT)
    whole = of_junit("all", report)
    assert (whole.passed, whole.failed, whole.skipped, whole.ok) == (2, 2, 1, False)
    assert of_junit("amqp", report, "tests/amqp").ok
    older = of_junit("5.4", report, "tests/integration", "5.4")
    assert older.failures == (
        "tests/integration/test_b::test_two[5.4]",
        "tests/integration/test_b::test_three[5.4]",
    )


def test_no_test_at_all_is_no_success(tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    report.write_text(JUNIT)
    assert not of_junit("none", report, "tests/nothing").ok


def test_a_scenario_that_is_not_ok_is_named() -> None:
    step = of_reliability("all", 'starting\n{"scenario": "a", "ok": true}\n{"scenario": "b", "ok": false}\n')
    assert (step.passed, step.failures) == (1, ("b",))


def test_a_matrix_that_was_interrupted_goes_on_and_another_commit_begins_anew(tmp_path: Path) -> None:
    Book(tmp_path / "results.json").add(passed(BROKER))
    again = Book(tmp_path / "results.json")
    assert again.get(BROKER) == passed(BROKER)
    assert again.done(BROKER, "abc")
    assert not again.done(BROKER, "def")


def test_two_that_run_at_one_time_keep_each_others_rows(tmp_path: Path) -> None:
    one, two = Book(tmp_path / "results.json"), Book(tmp_path / "results.json")
    one.add(passed(BROKER))
    two.add(passed(Row("unit", "3.14")))
    assert Book(tmp_path / "results.json").get(BROKER) == passed(BROKER)


def test_a_row_that_could_not_be_run_is_run_when_it_can_be(tmp_path: Path) -> None:
    book = Book(tmp_path / "results.json")
    book.add(Result(BROKER.name, "now", "abc", missing="no Python 3.11"))
    assert not book.done(BROKER, "abc")


def test_the_page_keeps_its_words_and_shows_failed_skipped_and_missing_rows(tmp_path: Path) -> None:
    page, book = tmp_path / "page.md", Book(tmp_path / "results.json")
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    skipped, failed = Row("unit", "3.12"), Row("unit", "3.13")
    book.add(Result(skipped.name, "now", "abc", missing="no Python 3.12 here"))
    book.add(Result(failed.name, "now", "abc", 5.0, (Step("unit tests", 8, 1, failures=("test_x",)),)))
    book.add(passed(BROKER))
    write(page, book, [])
    said = page.read_text()
    assert said.startswith("before\n")
    assert said.endswith("after\n")
    assert "old" not in said
    assert "**skipped**: no Python 3.12 here" in said
    assert "8 passed, **1 failed**" in said
    assert "- Python 3.13, newest versions, unit tests: `test_x`" in said
    assert "not run" in said  # the rows without a result
    assert said.count("|---|") > 0


def test_a_row_of_ones_own_is_in_the_table(tmp_path: Path) -> None:
    own = Row("broker", "3.12", "4.3")
    assert "| 4.3 | 3.12 |" in text(Book(tmp_path / "results.json"), [own])


@pytest.mark.parametrize(
    ("of_row", "code"),
    [
        (passed, 0),
        (lambda row: Result(row.name, "now", "abc", 1.0, (Step("tests", 3, 1),)), 1),
        (lambda row: Result(row.name, "now", "abc", missing="no interpreter"), 2),
    ],
)
def test_the_exit_code_tells_passed_failed_and_skipped_apart(
    of_row: Callable[[Row], Result],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    monkeypatch.setattr(program, "PAGE", page)
    monkeypatch.setattr(program, "CHECKOUT", tmp_path)
    monkeypatch.setattr(program, "VAR", tmp_path)
    monkeypatch.setattr(program, "_commit", lambda: "abc")
    monkeypatch.setattr(program, "run", lambda row, _commit, _jobs: of_row(row))
    monkeypatch.setattr("sys.argv", ["matrix", "--broker", "4.3", "--python", "3.14"])
    assert program.main() == code
    assert ("SKIPPED: no interpreter" in capsys.readouterr().out) is (code == 2)


def test_missing_is_a_result_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(_python: str, _versions: str) -> None:
        raise Missing("no Python 3.12 here")

    monkeypatch.setattr("matrix.running.environment", nowhere)
    result = run(Row("unit", "3.12"), "abc", 1)
    assert (result.missing, result.steps, result.ok) == ("no Python 3.12 here", (), False)


def test_a_root_has_every_server_that_make_test_installs() -> None:
    told = ["make", "--silent", "--eval", "servers: ; @echo $(SERVERS)", "servers"]
    servers = subprocess.run(told, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.split()
    assert "rabbitmq-server" in servers
    assert set(servers) <= set(PACKAGES)


def test_no_two_files_of_tests_have_one_name() -> None:
    """A row is one run of pytest over many folders, which are no packages: of two such files it takes only one."""
    names = Counter(file.name for file in (CHECKOUT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
