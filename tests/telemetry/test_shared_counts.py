"""Several processes of one application count together: nothing clashes, nothing is lost, not even by kill -9."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from engine_bench import bench, embed, until
from mlproducer.errors import SettingsError
from mlproducer.events import AttemptSettled, ConnectionChanged, ConnectionState, TaskAccepted
from mlproducer.outcome import Confirmed
from mlproducer.telemetry.metrics import Metrics
from mlproducer.telemetry.shared import Shared

PROGRAM = Path(__file__).parents[1] / "helpers" / "counting_child.py"
TYPES = ("embed_vectors", "summarize_llm")
Labels = frozenset[tuple[str, str]]


class Worker:
    def __init__(self, folder: Path, *task_types: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(folder), *(task_types or TYPES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> str:
        return str(self.process.pid)

    def wait(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{word}\n"

    def order(self, *orders: str) -> None:
        assert self.process.stdin is not None
        for order in orders:
            self.process.stdin.write(f"{order}\n")
            self.process.stdin.flush()
            self.wait("done")

    def kill(self) -> None:
        self.process.kill()
        assert self.process.wait() == -signal.SIGKILL
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


Hire = Callable[..., list[Worker]]


@pytest.fixture
def hire(tmp_path: Path) -> Iterator[Hire]:
    hired: list[Worker] = []

    def start(count: int, *task_types: str) -> list[Worker]:
        fresh = [Worker(tmp_path, *task_types) for _ in range(count)]
        hired.extend(fresh)
        for worker in fresh:
            worker.wait("ready")
        return fresh

    yield start
    for worker in hired:
        if worker.process.poll() is None:
            worker.kill()


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[Metrics]:
    """One more producer on the folder, in this process: the one that is scraped."""
    ours = Metrics(TYPES, ("ml.embed",))
    ours.share(tmp_path)
    yield ours
    ours.unshare()


def scrape(metrics: Metrics) -> dict[tuple[str, Labels], float]:
    found: dict[tuple[str, Labels], float] = {}
    for family in parse_text(metrics.prometheus()[0].decode()):
        for sample in family.samples:
            key = (sample.name.removeprefix("ml_producer_"), frozenset(sample.labels.items()))
            assert key not in found, f"twice in one scrape: {key}"
            found[key] = sample.value
    return found


def of(**labels: str) -> Labels:
    return frozenset(labels.items())


def accepted(metrics: Metrics) -> float:
    return scrape(metrics)["tasks_accepted_total", of()]


def test_counts_add_up_and_each_living_process_has_its_gauges(metrics: Metrics, hire: Hire) -> None:
    one, other = hire(2)
    one.order("accept embed_vectors 3", "connected", "flight 2")
    other.order("accept embed_vectors 4", "accept summarize_llm 5", "flight 7")
    metrics(TaskAccepted("t", "embed_vectors", 1_000))
    found = scrape(metrics)
    assert found["tasks_accepted_total", of()] == 13
    assert found["tasks_sent_total", of(task_type="embed_vectors", status="confirmed")] == 7
    assert found["message_size_bytes_count", of(task_type="embed_vectors")] == 8
    assert found["message_size_bytes_sum", of(task_type="embed_vectors")] == 8_000
    assert found["message_size_bytes_bucket", of(task_type="embed_vectors", le="1024.0")] == 8
    assert found["connection_state", of(pid=one.pid)] == 2
    assert found["connection_state", of(pid=other.pid)] == 0
    # What analytics store is each process's own: else it would be stored once by every process.
    assert {key: sum_ for key, sum_ in metrics.task_totals().items() if sum_} == {("embed_vectors", "accepted", ""): 1}
    assert found["in_flight", of()] == 9
    assert len([name for name, _ in found if name == "uptime_seconds"]) == 3


def test_a_process_killed_in_the_middle_of_counting_loses_nothing_and_its_gauges_go(
    metrics: Metrics, hire: Hire
) -> None:
    busy, calm = hire(2)
    calm.order("accept embed_vectors 10", "connected")
    busy.order("connected", "busy")
    while accepted(metrics) < 5_000:
        pass
    before = accepted(metrics)
    busy.kill()
    after = accepted(metrics)
    assert after >= before > 5_000
    assert after == accepted(metrics), "it counts no more"
    assert not any(("pid", busy.pid) in labels for _, labels in scrape(metrics))
    assert scrape(metrics)["connection_state", of(pid=calm.pid)] == 2


def test_counts_of_the_dead_outlive_every_restart_in_one_file(tmp_path: Path, metrics: Metrics, hire: Hire) -> None:
    total = 0.0
    for number in range(1, 6):
        (worker,) = hire(1)
        worker.order(f"accept summarize_llm {number}")
        worker.kill()
        total += number
        assert accepted(metrics) == total
    hire(1)
    assert accepted(metrics) == total
    assert len(list(tmp_path.glob("*.cells"))) == 3, "ours, the new one's, and that of the dead"


def test_a_polite_stop_keeps_the_counts_too(metrics: Metrics, hire: Hire) -> None:
    (worker,) = hire(1)
    worker.order("accept embed_vectors 2", "stop")
    assert accepted(metrics) == 2
    assert not any(("pid", worker.pid) in labels for _, labels in scrape(metrics))


def test_a_crash_between_the_sum_and_the_removal_counts_nothing_twice(
    tmp_path: Path, metrics: Metrics, hire: Hire
) -> None:
    (worker,) = hire(1)
    worker.order("accept embed_vectors 6")
    worker.kill()
    (left,) = (path for path in tmp_path.glob(f"{worker.pid}.*"))
    content = left.read_bytes()
    hire(1)
    assert not left.exists(), "a starter gathers what the dead counted"
    left.write_bytes(content)  # as if it had died before it removed the file
    assert accepted(metrics) == 6
    hire(1)
    assert accepted(metrics) == 6
    assert not left.exists()


def test_two_producers_of_one_process_have_a_name_each(tmp_path: Path, metrics: Metrics) -> None:
    second = Metrics(TYPES, ("ml.embed",))
    second.share(tmp_path)
    try:
        second(ConnectionChanged(ConnectionState.CONNECTED, "localhost:5672"))
        states = [value for (name, _), value in scrape(metrics).items() if name == "connection_state"]
        assert sorted(states) == [0, 2]
    finally:
        second.unshare()


def test_programs_with_other_task_types_add_theirs(metrics: Metrics, hire: Hire) -> None:
    (worker,) = hire(1, "embed_vectors", "score")
    worker.order("accept embed_vectors 1", "accept score 2")
    metrics(TaskAccepted("t", "embed_vectors", 1_000))
    found = scrape(metrics)
    assert found["message_size_bytes_count", of(task_type="score")] == 2
    assert found["message_size_bytes_count", of(task_type="embed_vectors")] == 2
    assert found["message_size_bytes_count", of(task_type="summarize_llm")] == 0


def test_the_openmetrics_of_several_processes_parse_and_show_our_exemplars(metrics: Metrics, hire: Hire) -> None:
    (worker,) = hire(1)
    worker.order("accept embed_vectors 1")
    metrics(AttemptSettled("t", "embed_vectors", Confirmed(), 0.004, 10))
    metrics.attempt_traced("embed_vectors", Confirmed(), 0.004, "ab" * 16)
    text = metrics.prometheus("application/openmetrics-text")[0].decode()
    families = list(parse_openmetrics(text))  # type: ignore[no-untyped-call]  # it has no annotations
    exemplars = [sample.exemplar for family in families for sample in family.samples if sample.exemplar]
    assert [each.labels for each in exemplars] == [{"trace_id": "ab" * 16}]


def test_the_json_has_the_counts_of_all_and_the_gauges_of_who_answers(metrics: Metrics, hire: Hire) -> None:
    (worker,) = hire(1)
    worker.order("accept embed_vectors 3", "connected")
    found = metrics.json()
    assert isinstance(found["tasks"], dict)
    assert isinstance(found["connection"], dict)
    assert found["tasks"]["accepted"] == 3
    assert found["connection"]["state"] == "disconnected"
    assert found["pid"]


def test_a_damaged_file_and_one_of_somebody_else_are_left_out(tmp_path: Path, metrics: Metrics) -> None:
    (tmp_path / "1.aa.cells").write_bytes(b"")
    (tmp_path / "2.aa.cells").write_bytes(b"\0" * 400)
    (tmp_path / "3.aa.cells").write_bytes(b"mlproducer-cells" + b"\1\0\0\0" * 2 + b"}}")
    (tmp_path / "gauge_all_17.db").write_bytes(b"prometheus_client's own")
    metrics(TaskAccepted("t", "embed_vectors", 1))
    assert accepted(metrics) == 1


def test_a_folder_that_cannot_be_used_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SettingsError, match="ML_METRICS_DIR"):
        Metrics(TYPES, ()).share(tmp_path / "file" / "folder")


def test_numbers_go_along_when_they_move_into_a_file_and_back(tmp_path: Path) -> None:
    metrics = Metrics(TYPES, ())
    metrics(TaskAccepted("t", "embed_vectors", 1))
    metrics.share(tmp_path)
    metrics(TaskAccepted("t", "embed_vectors", 1))
    metrics.unshare()
    metrics(TaskAccepted("t", "embed_vectors", 1))
    assert accepted(metrics) == 3


def test_readers_meet_no_gap_while_starters_gather_the_dead(tmp_path: Path, metrics: Metrics) -> None:
    """A total that fell for one scrape would be a reset to Prometheus, and a burst that never was."""

    def come_and_go() -> None:
        for _ in range(30):
            guest = Metrics(TYPES, ())
            guest.share(tmp_path)
            guest(TaskAccepted("t", "embed_vectors", 1))
            guest.unshare()

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(come_and_go)
        seen = [0.0]
        while not coming.done():
            seen.append(accepted(metrics))
        coming.result()
    assert seen == sorted(seen)
    assert accepted(metrics) == 30


async def test_a_producer_counts_in_the_folder_of_its_settings(tmp_path: Path) -> None:
    one, other = bench(ml_metrics_dir=tmp_path), bench(ml_metrics_dir=tmp_path)
    async with one.producer, other.producer:
        assert await one.producer.connected(2)
        assert await other.producer.connected(2)
        await asyncio.gather(one.producer.publish(embed(1)), other.producer.publish(embed(2)))
        assert accepted(one.producer.metrics) == accepted(other.producer.metrics) == 2
        await until(lambda: len([n for n, _ in scrape(one.producer.metrics) if n == "connection_state"]) == 2)
    assert accepted(one.producer.metrics) == 1, "after the end, its own"


def test_the_lock_of_a_file_is_that_of_its_owner(tmp_path: Path, metrics: Metrics) -> None:
    assert isinstance(metrics._shared, Shared)
    files = metrics._shared._files()
    assert [file.part.pid for file in files] == [metrics._shared.pid]
    assert list(tmp_path.glob("*.new")) == []
