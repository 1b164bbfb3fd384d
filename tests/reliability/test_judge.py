"""The judge must be able to say lost: it is shown broken worlds."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from mlproducer import Producer, Receipt, Settings, Task
from mlproducer.reliability.judge import DEAD, WAITING, Judge, Ledger, Places, judge
from mlproducer.reliability.reader import Reader, ReaderError


def told(**states: str) -> Ledger:
    ledger = Ledger()
    for task_id, state in states.items():
        ledger.told(task_id, state)
    return ledger


def spool(path: Path, waiting: tuple[str, ...] = (), dead: tuple[str, ...] = ()) -> Path:
    with closing(sqlite3.connect(path)) as db:
        for table, ids in ((WAITING, waiting), (DEAD, dead)):
            db.execute(f"create table {table} (task_id text)")
            add = f"insert into {table} values (?)"  # noqa: S608  # names of our own
            db.executemany(add, [(task_id,) for task_id in ids])
        db.commit()
    return path


async def publish(url: str, folder: Path, *task_ids: str) -> None:
    """Into the queues, by a producer with a spool of its own."""
    async with Producer(Settings.load(rabbitmq_url=url, ml_data_dir=folder)) as producer:
        assert await producer.connected(20), producer.status().last_error
        for task_id in task_ids:
            kind = "summarize_llm" if task_id.startswith("sum") else "embed_vectors"
            task = Task(task_type=kind, payload={"share_id": "s", "content": "x"}, id=task_id)
            assert (await producer.publish(task)).confirmed


# Pure -----------------------------------------------------------------------------------------------------------------


def test_a_task_in_each_place_is_counted_there_and_one_that_is_nowhere_is_lost() -> None:
    ledger = told(direct="confirmed", waits="spooled", died="spooled", gone="confirmed")
    verdict = judge(ledger, Places(Counter({"direct": 1}), frozenset({"waits"}), frozenset({"died"})))
    assert (verdict.accepted, verdict.confirmed) == (4, 2)
    assert (verdict.delivered, verdict.in_spool, verdict.in_dlq) == (1, 1, 1)
    assert verdict.lost == 1
    assert verdict.duplicated == 0


def test_a_confirm_alone_proves_nothing() -> None:
    """Told confirmed, and in no queue: the engine's word does not count."""
    ledger = told(t="confirmed")
    ledger.confirmed_later("t")
    assert judge(ledger, Places(Counter(), frozenset(), frozenset())).lost == 1


def test_each_delivery_beyond_the_first_is_a_duplicate() -> None:
    verdict = judge(told(a="confirmed", b="spooled"), Places(Counter(a=3, b=2), frozenset(), frozenset()))
    assert (verdict.delivered, verdict.duplicated, verdict.lost) == (2, 3, 0)


def test_what_nobody_was_told_is_a_stranger_and_neither_delivered_nor_lost() -> None:
    ledger = told(a="confirmed")
    ledger.confirmed_later("b")  # its caller died before the receipt came
    verdict = judge(ledger, Places(Counter(a=1, b=1), frozenset({"c"}), frozenset()))
    assert (verdict.accepted, verdict.confirmed, verdict.delivered, verdict.strangers) == (1, 1, 1, 1)
    assert (verdict.in_spool, verdict.lost) == (0, 0)


def test_a_spooled_task_that_is_confirmed_later_counts_as_confirmed() -> None:
    ledger = told(a="spooled")
    assert len(ledger.confirmed) == 0
    ledger.confirmed_later("a")
    assert ledger.confirmed == {"a"}


# With a queue and a file ----------------------------------------------------------------------------------------------


async def test_the_judge_finds_tasks_in_queues_spool_and_dlq_and_misses_the_one_that_was_purged(
    vhost_url: str, tmp_path: Path
) -> None:
    await publish(vhost_url, tmp_path, "e1", "e2", "sum1", "e1x")
    file = spool(tmp_path / "judged.db", ("w1", "w2"), ("d1",))
    ledger = told(e1="confirmed", e2="spooled", sum1="confirmed", w1="spooled", w2="spooled", d1="spooled")
    found = Judge(vhost_url, file, ledger).verdict(patience=0.0)
    assert (found.accepted, found.delivered, found.in_spool, found.in_dlq) == (6, 3, 2, 1)
    assert (found.lost, found.duplicated, found.strangers) == (0, 0, 1)
    # Now a world that lost them: the queues are empty, and the spool forgot one.
    with closing(sqlite3.connect(file)) as db:
        db.execute(f"delete from {WAITING} where task_id = 'w1'")  # noqa: S608  # a name of our own
        db.commit()
    found = Judge(vhost_url, file, ledger).verdict(patience=0.0)
    assert (found.delivered, found.in_spool, found.in_dlq, found.lost) == (0, 1, 1, 4)


async def test_a_task_published_twice_is_found_twice(vhost_url: str, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        await publish(vhost_url, tmp_path / folder, "again")
    found = Judge(vhost_url, tmp_path / "none.db", told(again="confirmed")).verdict(patience=0.0)
    assert (found.delivered, found.duplicated, found.lost) == (1, 1, 0)


async def test_the_judge_reads_the_spool_beside_a_running_producer_and_changes_nothing(tmp_path: Path) -> None:
    settings = Settings.load(rabbitmq_url="amqp://ml:ml_password@127.0.0.1:1/", ml_data_dir=tmp_path)
    async with Producer(settings) as producer:
        ids = {
            (await producer.publish(Task(task_type="embed_vectors", payload={"share_id": "s", "content": "x"}))).task_id
            for _ in range(5)
        }
        watcher = Judge("amqp://nobody", tmp_path / "mlproducer.db", Ledger())
        assert watcher.waiting() == ids
        assert watcher.dead() == frozenset()
    assert watcher.waiting() == ids


def test_a_missing_task_is_looked_for_until_patience_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that recovers looks empty first: what comes later is not lost."""
    late = iter([[], [], ["t"]])
    watcher = Judge("amqp://nobody", tmp_path / "none.db", told(t="confirmed"))
    monkeypatch.setattr("mlproducer.reliability.judge._LOOK", 0.01)
    monkeypatch.setattr(watcher, "take", lambda: watcher._delivered.update(next(late, [])))
    assert watcher.verdict(patience=5).lost == 0


# The reader -----------------------------------------------------------------------------------------------------------


async def test_the_reader_takes_everything_once_and_in_order(vhost_url: str, tmp_path: Path) -> None:
    settings = Settings.load(rabbitmq_url=vhost_url, ml_data_dir=tmp_path)
    async with Producer(settings) as producer:
        assert await producer.connected(20), producer.status().last_error
        tasks = [Task(task_type="embed_vectors", payload={"share_id": "s", "content": "x" * 50}) for _ in range(2_500)]
        async for receipt in producer.publish_many(tasks):
            assert isinstance(receipt, Receipt)
            assert receipt.confirmed
    with Reader(vhost_url) as reader:
        assert reader.take("ml.embed") == [task.id for task in tasks], "more than two prefetch windows"
        assert reader.take("ml.embed") == []
        assert reader.take("ml.no-such-queue") == []
        assert reader.take("ml.summarize") == [], "a missing queue does not end the reader"


def test_no_broker_is_an_error_in_words() -> None:
    with pytest.raises(ReaderError, match="cannot reach the broker"):
        Reader("amqp://ml:ml_password@127.0.0.1:1/")
