"""The claim check before a publish: stored first, bounded in time, refused in words."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlproducer.blobs import Blob, BlobStore, open_blobs
from mlproducer.blobs.claim_check import ClaimCheck
from mlproducer.envelope.encode import Encoder
from mlproducer.envelope.reference import KEYWORD
from mlproducer.envelope.types import TaskTypes
from mlproducer.errors import BlobStoreUnavailable, TaskTooLarge
from mlproducer.http.problems import problem_of
from mlproducer.task import Envelope, Task

ENCODER = Encoder(TaskTypes.builtin(), "mlproducer@test", 64 * 1024 * 1024)
KIB = 1024


def envelope(content: str, **headers: str) -> Envelope:
    return ENCODER.encode(
        Task(task_type="summarize_llm", payload={"share_id": "7", "content": content}, headers=headers)
    )


def check(store: BlobStore, *, threshold: int = 8 * KIB, limit: int = 8 * KIB, timeout: float = 30.0) -> ClaimCheck:
    return ClaimCheck(store, threshold=threshold, limit=limit, timeout=timeout)


def nothing_in(folder: Path) -> bool:
    return not any(folder.iterdir())


class Hanging:
    """A store that takes nothing until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.puts = 0

    def put(self, key: str, data: bytes | memoryview) -> None:
        del key, data
        self.puts += 1
        self.let_go.wait(20)

    def get(self, key: str, limit: int) -> bytes:
        raise NotImplementedError

    def delete(self, key: str, *, older_than: float) -> bool:
        raise NotImplementedError

    def older_than(self, moment: float) -> Iterator[Blob]:
        raise NotImplementedError


async def test_a_small_task_goes_as_it_is_and_stores_nothing(tmp_path: Path) -> None:
    small = envelope("x")
    assert await check(open_blobs(str(tmp_path / "blobs"))).apply(small) is small
    assert not (tmp_path / "blobs").exists()


async def test_a_large_payload_is_stored_before_its_envelope_is_given_out(tmp_path: Path) -> None:
    large = envelope("x" * 100_000)
    substitute = await check(open_blobs(str(tmp_path))).apply(large)
    reference = json.loads(substitute.body)[1][KEYWORD]
    assert json.loads((tmp_path / reference["key"]).read_bytes()) == json.loads(large.body)[1]
    assert substitute.size < 2 * KIB


async def test_a_store_that_cannot_be_written_refuses_the_task(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BlobStoreUnavailable) as refused:
        await check(open_blobs(str(tmp_path / "file"))).apply(envelope("secret words " * 10_000))
    problem = problem_of(refused.value)
    assert (problem.kind.status, problem.kind.slug) == (503, "blob-store-unavailable")
    assert problem.response().headers["Retry-After"] == "5"
    assert "secret words" not in problem.detail


async def test_a_store_that_hangs_refuses_the_task_in_time_and_holds_four_threads_at_most() -> None:
    store = Hanging()
    checking = check(store, timeout=0.2)
    try:
        started = time.monotonic()
        answers = await asyncio.gather(
            *(checking.apply(envelope(f"{number}" * 10_000)) for number in range(9)), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [BlobStoreUnavailable] * 9
        assert time.monotonic() - started < 10
        assert "ML_BLOB_TIMEOUT" in str(answers[0])
        assert store.puts == 4
    finally:
        store.let_go.set()
        checking.close()


async def test_the_event_loop_goes_on_while_a_payload_is_stored() -> None:
    store = Hanging()
    checking = check(store)
    waiting = asyncio.create_task(checking.apply(envelope("x" * 100_000)))
    for _ in range(20):
        await asyncio.sleep(0.01)
    assert not waiting.done()
    store.let_go.set()
    assert (await waiting).size < 2 * KIB
    checking.close()


async def test_headers_that_are_too_large_alone_are_refused_and_store_nothing(tmp_path: Path) -> None:
    headers = {f"x-{number}": "h" * 8000 for number in range(2)}
    with pytest.raises(TaskTooLarge, match="ML_MAX_MESSAGE_BYTES"):
        await check(open_blobs(str(tmp_path))).apply(envelope("x" * 100_000, **headers))
    assert nothing_in(tmp_path)


async def test_a_payload_that_is_smaller_than_its_reference_stays_in_the_message(tmp_path: Path) -> None:
    headed = envelope("x", note="h" * 8000)
    checking = check(open_blobs(str(tmp_path)), threshold=KIB, limit=64 * KIB)
    assert await checking.apply(headed) is headed
    assert nothing_in(tmp_path)
