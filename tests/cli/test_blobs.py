"""`mlproducer blobs clean`, as a shell sees it."""

from __future__ import annotations

import json
import os
import time
from hashlib import sha256
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mlproducer.blobs.folder import FolderBlobs
from mlproducer.cli.app import app
from mlproducer.envelope.reference import key_of

DAY = 86_400.0


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["blobs", "clean", *words])


def put(folder: Path, data: bytes, age: float) -> Path:
    key = key_of(sha256(data).hexdigest())
    FolderBlobs(folder).put(key, data)
    then = time.time() - age
    os.utime(folder / key, (then, then))
    return folder / key


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ML_BLOB_URL", f"file://{tmp_path / 'blobs'}")
    return tmp_path / "blobs"


def test_old_payloads_are_removed_and_young_ones_stay(folder: Path) -> None:
    old, young = put(folder, b"{}", 8 * DAY), put(folder, b'{"a":1}', 6 * DAY)
    result = run("--older-than", "7d")
    assert (result.exit_code, result.stdout) == (0, "1 payload removed, 2 B, written more than 7.0 d ago\n")
    assert not old.exists()
    assert young.exists()


def test_a_dry_run_removes_nothing(folder: Path) -> None:
    old = put(folder, b"{}", 8 * DAY)
    result = run("--older-than", "7d", "--dry-run", "--json")
    assert json.loads(result.stdout) == {"dry_run": True, "older_than": 7 * DAY, "blobs": 1, "bytes": 2}
    assert old.exists()


def test_an_age_that_payloads_just_published_may_have_is_refused(folder: Path) -> None:
    old = put(folder, b"{}", 8 * DAY)
    result = run("--older-than", "119m")
    assert result.exit_code == 2
    assert "at least" in result.stderr
    assert old.exists()


@pytest.mark.parametrize("words", [[], ["--older-than", "a while"], ["--older-than", "-7d"]])
@pytest.mark.usefixtures("folder")
def test_the_age_must_be_said(words: list[str]) -> None:
    assert run(*words).exit_code == 2


def test_without_a_store_there_is_nothing_to_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ML_BLOB_URL", raising=False)
    result = run("--older-than", "7d")
    assert result.exit_code == 2
    assert "ML_BLOB_URL" in result.stderr


def test_a_store_that_cannot_be_read_fails_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = put(tmp_path, b"{}", 8 * DAY)
    lock = tmp_path / ".lock"
    lock.unlink()
    lock.mkdir()
    monkeypatch.setenv("ML_BLOB_URL", str(tmp_path))
    result = run("--older-than", "7d")
    assert result.exit_code == 1
    assert "ML_BLOB_URL" in result.stderr
    assert broken.exists()
