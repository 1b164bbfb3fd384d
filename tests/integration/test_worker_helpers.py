"""Real Celery workers, the newest and 5.4, with `once` and `claim_check`: each task is run once, with its payload."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import site
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.integration.conftest import HERE, WORK_TIMEOUT, WORKERS, running
from tests.integration.test_celery_worker import payload_of, publish

from known_workers import PlainFields
from mlproducer.blobs import open_blobs
from mlproducer.blobs.claim_check import ClaimCheck
from mlproducer.envelope.encode import Encoder
from mlproducer.envelope.types import Route, TaskType, TaskTypes
from mlproducer.task import Envelope, Task
from mlproducer.testing.rabbitmq import PrivateRabbit
from private_redis import PrivateRedis
from private_s3 import BUCKET, private_s3

if TYPE_CHECKING:
    from tests.integration.conftest import Worker

KIB, MIB = 1024, 1024 * 1024


TYPES = [
    TaskType(name, {"api": Route(f"helped.tasks.{name}", queue)}, PlainFields)
    for name, queue in (("summarize", "ml.summarize"), ("embed", "ml.embed"), ("transcribe", "ml.transcribe"))
]
ENCODER = Encoder(TaskTypes.builtin().with_(TYPES), "mlproducer@test", 64 * MIB)
LIBRARIES = ("redis", "sqlalchemy", "typing_extensions.py")


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with PrivateRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url()


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as environment, private_s3(environment) as endpoint:
        yield endpoint


def environment(version: str, folder: Path, once_url: str, blob_url: str) -> dict[str, str]:
    """Of a worker that has mlproducer, and the client of its store, beside its own Celery."""
    libraries = folder / "libraries"
    libraries.mkdir(exist_ok=True)
    if version != "newest":  # its environment holds Celery alone
        for name in LIBRARIES:
            (libraries / name).symlink_to(Path(site.getsitepackages()[0]) / name)
    paths = (HERE, HERE.parent.parent / "src", libraries)
    return {
        "ML_ONCE_URL": once_url,
        "ML_BLOB_URL": blob_url,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }


class Helped:
    """A worker with the helpers, and the producer's half of its store."""

    def __init__(self, worker: Worker, blob_url: str) -> None:
        self.worker = worker
        self.blob_url = blob_url

    def envelope(self, task: Task) -> Envelope:
        with closing(ClaimCheck(open_blobs(self.blob_url), threshold=64 * KIB, limit=64 * KIB)) as check:
            return asyncio.run(check.apply(ENCODER.encode(task)))

    def runs(self, task: Task, count: int = 1) -> list[dict[str, Any]]:
        """The notes of the task's runs, once there are `count`."""
        end = time.monotonic() + WORK_TIMEOUT
        while len(found := [note for note in self.worker.noted("run") if note["id"] == task.id]) < count:
            assert self.worker.process.poll() is None, self.worker.log
            assert time.monotonic() < end, self.worker.log
            time.sleep(0.05)
        return found


@pytest.fixture(scope="module", params=list(WORKERS))
def helped(
    request: pytest.FixtureRequest, rabbit: PrivateRabbit, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Helped]:
    """The newest with Redis and S3; 5.4 with SQLite and a folder."""
    version: str = request.param
    folder = tmp_path_factory.mktemp("helped")
    if version == "newest":
        request.getfixturevalue("s3")
        once_url, blob_url = redis_url, f"s3://{BUCKET}/worker"
    else:
        once_url, blob_url = f"sqlite:///{folder / 'once.db'}", f"file://{folder / 'blobs'}"
    url = rabbit.add_vhost(f"helped-{version}")
    more = environment(version, folder, once_url, blob_url)
    with running(version, url, folder, "helped_app", more) as worker:
        yield Helped(worker, blob_url)


def task_of(task_type: str, content: str = "text") -> Task:
    return Task(task_type=task_type, payload=payload_of("summarize_llm", content))


def checksum(task: Task) -> str:
    return hashlib.sha256(json.dumps(task.payload, sort_keys=True).encode()).hexdigest()


def test_a_task_that_is_delivered_three_times_is_run_once(helped: Helped) -> None:
    task, next_one = task_of("summarize"), task_of("summarize")
    envelope = helped.envelope(task)
    publish(helped.worker.url, envelope, envelope, envelope, helped.envelope(next_one))
    # One worker, one process, one queue: when the next one has run, all copies have been through.
    helped.runs(next_one)
    assert len(helped.runs(task)) == 1
    assert helped.worker.log.count(f"[{task.id}] is dropped: it was done before") == 2


def test_a_payload_of_many_megabytes_arrives_whole_in_a_small_message(helped: Helped) -> None:
    task = task_of("summarize", "".join(f"{number} ünïcödé " for number in range(700_000)))
    envelope = helped.envelope(task)
    assert envelope.size < 4 * KIB
    publish(helped.worker.url, envelope)
    (run,) = helped.runs(task)
    assert (run["sha256"], run["share_id"]) == (checksum(task), "share-1")
    assert run["size"] > 10 * MIB
    assert run["carried"] == ["ml_claim_check", "share_id"]


def test_a_retry_of_celerys_runs_and_carries_the_reference_again(helped: Helped) -> None:
    task = task_of("embed", "x" * 100 * KIB)
    publish(helped.worker.url, helped.envelope(task))
    runs = helped.runs(task, 2)
    assert [run["retries"] for run in runs] == [0, 1]
    assert {run["sha256"] for run in runs} == {checksum(task)}
    assert all(run["carried"] == ["ml_claim_check", "share_id"] for run in runs)


@pytest.mark.parametrize("version", ["newest", pytest.param("5.4", marks=pytest.mark.chaos)])
def test_a_worker_killed_at_work_leaves_its_task_to_the_next_after_the_lease(
    version: str, rabbit: PrivateRabbit, redis_url: str, tmp_path: Path
) -> None:
    url = rabbit.add_vhost(f"killed-{version}")
    once_url = redis_url if version == "newest" else f"sqlite:///{tmp_path / 'once.db'}"
    more = environment(version, tmp_path, once_url, "/")
    go_on = tmp_path / "go on"
    task = task_of("transcribe", str(go_on))
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    with running(version, url, one, "helped_app", more) as first:
        publish(url, ENCODER.encode(task))
        first.wait_for("run", 1)
        first.process.kill()
        first.process.wait()
    go_on.touch()
    with running(version, url, two, "helped_app", more) as second:
        (end,) = second.wait_for("end", 1)
        assert (end["id"], end["redelivered"]) == (task.id, True)
        publish(url, ENCODER.encode(task))  # the copy of an attempt that was unsure
        second.wait_for_log(f"[{task.id}] is dropped: it was done before")
        assert len(second.noted("run")) == 1
