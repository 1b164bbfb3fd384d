"""`make mutants`: each wrong version still is one of today's code; and what the runner says of a version."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from console_bench import until
from mutants import __main__ as program
from mutants import running
from mutants.patches import CHECKOUT, FOLDER, BadPatch, Mutant, apply, chosen, read
from mutants.running import Result, Stopped, Verdict, try_mutant

MUTANTS = chosen(FOLDER, [])


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_patch_applies_to_the_code_and_names_tests_that_are_there(mutant: Mutant) -> None:
    apply(mutant, CHECKOUT, check=True)
    changed = re.findall(r"^\+\+\+ b/(\S+)", mutant.patch.read_text(), re.MULTILINE)
    assert len(changed) == 1
    assert changed[0].startswith("src/mlproducer/")
    for test in mutant.tests:
        file, *names = test.split("::")
        path = CHECKOUT / file
        assert path.exists(), test
        # A test that a class inherits is in another file; so the last name is looked for in all that tests read.
        texts = [path.read_text()] if path.is_file() else []
        texts += [each.read_text() for each in (CHECKOUT / "src/mlproducer/testing/spool_contract").glob("*.py")]
        assert all(any(name in text for text in texts) for name in names), test


def test_there_are_as_many_as_were_promised() -> None:
    assert len(MUTANTS) >= 37


CODE = "def double(n: int) -> int:\n    return 2 * n\n"
TESTS = """
import os, pathlib, subprocess, time
import pytest
from code_ import double

def test_double():
    assert double(3) == 6

def test_nothing():
    pass

def test_serves():
    server = subprocess.Popen(["sleep", "600"], start_new_session=True)
    folder = pathlib.Path(os.environ["TMPDIR"])
    pathlib.Path(SERVED + "-soon").write_text(f"{server.pid} {folder.parent}")
    os.rename(SERVED + "-soon", SERVED)

@pytest.fixture
def broken():
    raise OSError("no server")

def test_needs(broken):
    pass

def test_ends():
    while double(1) != 2:
        time.sleep(0.05)
"""
WRONG = """It doubles too much | {tests}
--- a/src/code_.py
+++ b/src/code_.py
@@ -1,2 +1,2 @@
 def double(n: int) -> int:
-    return 2 * n
+    return {wrong} * n
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small one, with a test that sees what is wrong, one that does not, and one that hangs with it."""
    place = tmp_path / "checkout"
    (place / "src").mkdir(parents=True)
    (place / "src/code_.py").write_text(CODE)
    (place / "test_it.py").write_text(TESTS.replace("SERVED", repr(str(tmp_path / "served"))))
    monkeypatch.setattr(running, "CHECKOUT", place)
    return place


def mutant(place: Path, *tests: str, wrong: str = "3") -> Mutant:
    patch = place / "wrong.patch"
    patch.write_text(WRONG.format(tests=" ".join(tests), wrong=wrong))
    return read(patch)


@pytest.mark.parametrize(
    ("test", "verdict"),
    [
        ("test_it.py::test_double", Verdict.SEEN),
        ("test_it.py::test_nothing", Verdict.SURVIVED),
        ("test_it.py::test_that_is_not_there", Verdict.BROKEN),
    ],
)
def test_a_version_is_seen_survives_or_could_not_be_tried(test: str, verdict: Verdict, checkout: Path) -> None:
    result = try_mutant(mutant(checkout, test), 60)
    assert result.verdict is verdict, result.said
    assert verdict is not Verdict.SEEN or result.said == "test_double"
    assert "2 * n" in (checkout / "src/code_.py").read_text(), "only a copy was made wrong"


def test_a_version_that_hangs_is_ended_and_counts_as_seen(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "TEST_SECONDS", 1)
    result = try_mutant(mutant(checkout, "test_it.py::test_ends"), 60)
    assert (result.verdict, result.said) == (Verdict.SEEN, "test_ends")


def test_tests_that_are_not_done_in_time_tell_nothing(checkout: Path) -> None:
    result = try_mutant(mutant(checkout, "test_it.py::test_ends"), 0.01)
    assert result.verdict is Verdict.BROKEN
    assert "--limit" in result.said


def test_a_fixture_that_fails_sees_nothing(checkout: Path) -> None:
    assert try_mutant(mutant(checkout, "test_it.py::test_needs"), 60).verdict is Verdict.BROKEN


def test_a_run_that_is_stopped_leaves_neither_files_nor_a_server_in_a_session_of_its_own(
    checkout: Path, tmp_path: Path
) -> None:
    stop, served = Event(), tmp_path / "served"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            try_mutant, mutant(checkout, "test_it.py::test_serves", "test_it.py::test_ends"), 60, stop
        )
        until(served.exists, "its server runs")
        stop.set()
        with pytest.raises(Stopped):
            running.result()
    pid, folder = served.read_text().split()
    assert not Path(folder).exists()
    until(lambda: not runs(pid), "the server has ended")


def runs(pid: str) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_patch_that_no_longer_applies_is_no_success_and_says_what_to_do(checkout: Path) -> None:
    wrong = mutant(checkout, "test_it.py::test_double")
    (checkout / "src/code_.py").write_text(CODE.replace("2 * n", "n + n"))
    result = try_mutant(wrong, 60)
    assert result.verdict is Verdict.BROKEN
    assert "Make the same mistake in today's code" in result.said


@pytest.mark.parametrize("head", ["", "It doubles too much", "| test_it.py", "It doubles too much |"])
def test_a_patch_without_its_words_or_its_tests_is_refused(head: str, tmp_path: Path) -> None:
    (tmp_path / "a.patch").write_text(f"{head}\n--- a/x\n")
    with pytest.raises(BadPatch, match=r"a\.patch"):
        chosen(tmp_path, [])


@pytest.mark.parametrize(
    ("verdict", "code"),
    [(Verdict.SEEN, 0), (Verdict.SURVIVED, 1), (Verdict.BROKEN, 1)],
)
def test_the_exit_code_says_whether_one_survived(
    verdict: Verdict, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        (tmp_path / f"{name}.patch").write_text(f"Wrong {name} | test_it.py\n--- a/x\n")
    monkeypatch.setattr(program, "FOLDER", tmp_path)
    monkeypatch.setattr(program, "KEPT", tmp_path / "kept.json")
    monkeypatch.setattr(program, "try_unpatched", lambda _tests, _limit: "")
    monkeypatch.setattr(program, "try_mutant", lambda each, _limit, _stop: tried(each, verdict))
    assert program.main([]) == code
    said = capsys.readouterr().out
    assert f"{verdict}: Wrong a" in said
    assert "2 of 2 are seen" in said if code == 0 else "1 of 2 are seen" in said


def test_what_was_seen_is_not_tried_again_until_something_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again: list[str] = []

    def run(*words: str) -> list[str]:
        again.clear()
        program.main(list(words))
        return sorted(again)

    def tries(each: Mutant, _limit: float, _stop: Event) -> Result:
        again.append(each.name)
        return tried(each, Verdict.SURVIVED)

    for name in "ab":
        (tmp_path / f"{name}.patch").write_text(f"Wrong {name} | test_it.py\n--- a/x\n")
    monkeypatch.setattr(program, "FOLDER", tmp_path)
    monkeypatch.setattr(program, "KEPT", tmp_path / "kept.json")
    monkeypatch.setattr(program, "try_unpatched", lambda _tests, _limit: "")
    monkeypatch.setattr(program, "try_mutant", tries)
    assert run() == ["a", "b"]
    assert run() == ["a"], "it survived"
    assert run("--again") == ["a", "b"]
    (tmp_path / "b.patch").write_text("Wrong b | test_it.py\n--- a/y\n")
    assert run() == ["a", "b"], "it is another one now"


def tried(each: Mutant, verdict: Verdict) -> Result:
    return Result(verdict if each.name == "a" else Verdict.SEEN, "why", 1.0)


def test_tests_that_fail_on_the_code_as_it_is_tell_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.patch").write_text("Wrong a | test_it.py\n--- a/x\n")
    monkeypatch.setattr(program, "FOLDER", tmp_path)
    monkeypatch.setattr(program, "KEPT", tmp_path / "kept.json")
    monkeypatch.setattr(program, "try_unpatched", lambda _tests, _limit: "FAILED test_it.py::test_double")
    assert program.main([]) == 2
    assert "they tell nothing" in capsys.readouterr().out
