"""The worker's half of the claim check: exactly what was published, or an error that says why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from known_workers import on_the_wire
from mlproducer.blobs import open_blobs
from mlproducer.blobs.claim_check import ClaimCheck
from mlproducer.envelope.encode import Encoder
from mlproducer.envelope.reference import KEYWORD
from mlproducer.envelope.types import TaskTypes
from mlproducer.errors import SettingsError
from mlproducer.task import Task
from mlproducer.worker import PayloadDamaged, PayloadMissing, PayloadUnavailable, claim_check, fetch

PAYLOAD = {
    "share_id": "7",
    "content": "Ein langer Text, 文章, \U0001f600. " * 5000,
    "options": {"n": 2**62, "half": 0.5, "none": None, "flag": True, "list": [1, {"deep": ["x"]}], "ключ": ""},
}


@pytest.fixture
async def message(tmp_path: Path) -> dict[str, Any]:
    """The keyword arguments of a message whose payload is in `tmp_path`."""
    encoder = Encoder(TaskTypes.builtin(), "mlproducer@test", 64 * 1024 * 1024)
    checking = ClaimCheck(open_blobs(str(tmp_path)), threshold=1024, limit=8192)
    envelope = await checking.apply(encoder.encode(Task(task_type="summarize_llm", payload=PAYLOAD)))
    kwargs: dict[str, Any] = json.loads(envelope.body)[1]
    return kwargs


def blob(folder: Path, message: dict[str, Any]) -> Path:
    return folder / str(message[KEYWORD]["key"])


def test_the_function_gets_the_arguments_that_were_published(tmp_path: Path, message: dict[str, Any]) -> None:
    @claim_check(str(tmp_path))
    def summarize(task: str, /, **payload: object) -> tuple[str, dict[str, object]]:
        """Words."""
        return task, payload

    assert message.keys() == {"share_id", KEYWORD}
    assert summarize("self", **message) == ("self", on_the_wire("summarize_llm", PAYLOAD))
    assert (summarize.__name__, summarize.__doc__) == ("summarize", "Words.")


def test_a_payload_that_travelled_in_its_message_is_taken_as_it_is() -> None:
    @claim_check("/nowhere")
    def summarize(share_id: str) -> str:
        return share_id

    assert summarize(share_id="7") == "7"
    assert fetch({"share_id": "7"}) == {"share_id": "7"}


def test_the_store_may_come_from_the_workers_environment(
    tmp_path: Path, message: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ML_BLOB_URL", raising=False)
    with pytest.raises(SettingsError, match="ML_BLOB_URL"):
        fetch(message)
    monkeypatch.setenv("ML_BLOB_URL", str(tmp_path))
    assert fetch(message) == on_the_wire("summarize_llm", PAYLOAD)


def test_a_function_without_the_helper_fails_on_the_reference(message: dict[str, Any]) -> None:
    def summarize(share_id: str, content: str = "", options: object = None) -> None: ...

    with pytest.raises(TypeError, match=KEYWORD):
        summarize(**message)


def test_a_payload_that_was_removed_is_missing(tmp_path: Path, message: dict[str, Any]) -> None:
    blob(tmp_path, message).unlink()
    with pytest.raises(PayloadMissing, match="ML_BLOB_URL"):
        fetch(message, str(tmp_path))


def test_a_store_that_is_away_is_worth_a_retry(tmp_path: Path, message: dict[str, Any]) -> None:
    with pytest.raises(PayloadUnavailable):
        fetch(message, str(tmp_path / "not-mounted"))


@pytest.mark.parametrize("change", [b"", b"x", b'{"content":"other"}'])
def test_a_payload_of_another_size_is_damaged(tmp_path: Path, message: dict[str, Any], change: bytes) -> None:
    blob(tmp_path, message).write_bytes(change)
    with pytest.raises(PayloadDamaged, match=f"{len(change)} of"):
        fetch(message, str(tmp_path))


def test_a_payload_with_something_added_is_damaged(tmp_path: Path, message: dict[str, Any]) -> None:
    with blob(tmp_path, message).open("ab") as file:
        file.write(b" " * 1000)
    with pytest.raises(PayloadDamaged, match="more than"):
        fetch(message, str(tmp_path))


def test_one_changed_byte_is_found(tmp_path: Path, message: dict[str, Any]) -> None:
    data = bytearray(blob(tmp_path, message).read_bytes())
    data[100] ^= 1
    blob(tmp_path, message).write_bytes(data)
    with pytest.raises(PayloadDamaged, match="checksum") as damaged:
        fetch(message, str(tmp_path))
    assert "langer Text" not in str(damaged.value)


@pytest.mark.parametrize("key", ["/etc/passwd", "../../../etc/passwd", "file:///etc/passwd", "s3://other/ab/cd/x"])
def test_a_message_cannot_make_the_worker_read_another_place(tmp_path: Path, message: dict[str, Any], key: str) -> None:
    forged = {**message, KEYWORD: {**message[KEYWORD], "key": key}}
    with pytest.raises(PayloadDamaged, match="none of mlproducer's"):
        fetch(forged, str(tmp_path))


def test_the_helpers_bring_neither_celery_nor_the_engine_nor_its_dependencies() -> None:
    program = (
        "import sys, mlproducer.worker; "
        "print(sorted({name.split('.')[0] for name in sys.modules} & set(sys.argv[1:])), "
        "sorted(name for name in sys.modules if name.startswith('mlproducer.')))"
    )
    heavy = ("celery", "pydantic", "msgspec", "sqlalchemy", "redis", "fsspec", "asyncio", "fastapi", "structlog")
    done = subprocess.run(
        [sys.executable, "-c", program, *heavy], capture_output=True, text=True, check=True, env=os.environ
    )
    found, _, modules = done.stdout.partition(" [")
    assert found == "[]"
    for name in ("engine", "wiring", "delivery", "amqp", "task", "envelope.encode"):
        assert f"'mlproducer.{name}'" not in modules
