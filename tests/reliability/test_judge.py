"""The judge must be able to say lost, and four more things: it is shown broken worlds.

That it sees a broken engine is in test_broken_engines.py.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pamqp.commands import Basic

from mlproducer import Producer, Receipt, Settings, Task
from mlproducer.envelope.encode import Encoder, attempt_properties
from mlproducer.envelope.types import TaskTypes
from mlproducer.reliability.judge import DEAD, WAITING, Judge, Ledger, Places, judge
from mlproducer.reliability.message import EXCHANGE, WORKERS, Message, expected, found, kept
from mlproducer.reliability.reader import Reader, ReaderError

ENCODER = Encoder(TaskTypes.builtin(), "mlproducer@test", 1_000_000)


def told(**states: str) -> Ledger:
    """Each was asked for, with its own id for a digest."""
    ledger = Ledger()
    for task_id, state in states.items():
        ledger.called(task_id, task_id)
        ledger.told(task_id, state)
    return ledger


def whole(*task_ids: str) -> frozenset[Message]:
    return frozenset(Message(task_id, task_id) for task_id in task_ids)


def delivered(**counts: int) -> Counter[Message]:
    return Counter({Message(task_id, task_id): count for task_id, count in counts.items()})


def a_task(task_id: str, **more: Any) -> Task:
    kind = "summarize_llm" if task_id.startswith("sum") else "embed_vectors"
    return Task(task_type=kind, payload={"share_id": "s", "content": f"of {task_id}"}, id=task_id, **more)


def spool(path: Path, waiting: tuple[str, ...] = (), dead: tuple[str, ...] = ()) -> Path:
    with closing(sqlite3.connect(path)) as db:
        for table, ids in ((WAITING, waiting), (DEAD, dead)):
            db.execute(f"create table {table} (task_id text, routing_key text, properties blob, body blob)")
            rows = (ENCODER.encode(a_task(task_id)) for task_id in ids)
            db.executemany(
                f"insert into {table} values (?, ?, ?, ?)",  # noqa: S608  # names of our own
                [(row.task_id, row.routing_key, row.properties, row.body) for row in rows],
            )
        db.commit()
    return path


def asked(**states: str) -> Ledger:
    """As `told`, of real tasks."""
    ledger = Ledger()
    for task_id, state in states.items():
        ledger.called(task_id, expected(a_task(task_id)))
        ledger.told(task_id, state)
    return ledger


async def publish(url: str, folder: Path, *task_ids: str) -> None:
    """Into the queues, by a producer with a spool of its own."""
    async with Producer(Settings.load(rabbitmq_url=url, ml_data_dir=folder)) as producer:
        assert await producer.connected(20), producer.status().last_error
        for task_id in task_ids:
            assert (await producer.publish(a_task(task_id))).confirmed


# Pure -----------------------------------------------------------------------------------------------------------------


def test_a_task_in_each_place_is_counted_there_and_one_that_is_nowhere_is_lost() -> None:
    ledger = told(direct="confirmed", waits="spooled", died="spooled", gone="spooled")
    verdict = judge(ledger, Places(delivered(direct=1), whole("waits"), whole("died")))
    assert (verdict.accepted, verdict.confirmed) == (4, 1)
    assert (verdict.delivered, verdict.in_spool, verdict.in_dlq) == (1, 1, 1)
    assert verdict.lost == 1
    assert verdict.duplicated == 0
    assert verdict.faults() == ["1 accepted tasks are nowhere, or not as they were given"]


def test_a_confirm_alone_proves_nothing() -> None:
    """Told confirmed, and in no queue: the engine's word does not count."""
    ledger = told(t="confirmed")
    ledger.confirmed_later("t")
    verdict = judge(ledger, Places(Counter()))
    assert (verdict.lost, verdict.false_confirms) == (1, 1)


def test_what_went_with_a_queue_that_somebody_deleted_is_counted_apart_and_only_if_it_is_nowhere() -> None:
    ledger = told(gone="confirmed", there="confirmed", other="confirmed", spooled="spooled")
    ledger.went(("gone", "there", "spooled"))
    verdict = judge(ledger, Places(delivered(there=1)))
    assert verdict.gone == 1
    assert verdict.false_confirms == 1, "other was not on its way when the queue was deleted"
    assert verdict.lost == 2, "and what was not confirmed cannot have been in a queue"


@pytest.mark.parametrize("place", ["waiting", "dead"])
def test_a_confirmed_task_that_only_the_spool_has_is_a_false_confirm(place: str) -> None:
    """Nothing is lost; but its caller was told that it is in a queue."""
    verdict = judge(told(t="confirmed"), Places(Counter(), **{place: whole("t")}))
    assert (verdict.lost, verdict.false_confirms) == (0, 1)
    assert len(verdict.faults()) == 1


def test_each_delivery_beyond_the_first_is_a_duplicate_and_needs_an_attempt_without_an_answer() -> None:
    ledger = told(a="confirmed", b="spooled")
    places = Places(delivered(a=3, b=2))
    verdict = judge(ledger, places)
    assert (verdict.delivered, verdict.duplicated, verdict.unexplained, verdict.lost) == (2, 3, 3, 0)
    for task_id in ("a", "a", "b", "b"):
        ledger.unsure(task_id)
    verdict = judge(ledger, places)
    assert (verdict.duplicated, verdict.unsure, verdict.unexplained) == (3, 4, 0)
    assert verdict.faults() == []


def test_an_unsure_attempt_of_one_task_explains_no_copy_of_another() -> None:
    ledger = told(a="spooled", b="spooled")
    ledger.unsure("a")
    assert judge(ledger, Places(delivered(a=1, b=2))).unexplained == 1


def test_a_kill_explains_a_copy_of_what_may_have_been_under_way_and_of_nothing_that_was_confirmed() -> None:
    ledger = told(done="confirmed", open="spooled")
    ledger.called("unanswered", "unanswered")
    ledger.interrupted()
    verdict = judge(ledger, Places(delivered(done=2, open=2, unanswered=2)))
    assert (verdict.duplicated, verdict.unexplained) == (3, 1)


def test_what_was_asked_for_and_not_answered_is_neither_delivered_nor_lost_nor_a_stranger() -> None:
    ledger = told(a="confirmed")
    ledger.called("b", "b")
    ledger.confirmed_later("b")  # its caller died before the receipt came
    verdict = judge(ledger, Places(delivered(a=1, b=1)))
    assert (verdict.accepted, verdict.confirmed, verdict.delivered, verdict.strangers) == (1, 1, 1, 0)
    assert verdict.faults() == []


@pytest.mark.parametrize("place", ["delivered", "waiting", "dead"])
def test_what_nobody_asked_for_is_a_stranger_wherever_it_is(place: str) -> None:
    found: dict[str, Any] = {"delivered": delivered(a=1)}
    found[place] = delivered(a=1, c=1) if place == "delivered" else whole("c")
    verdict = judge(told(a="confirmed"), Places(**found))
    assert (verdict.strangers, verdict.altered, verdict.lost) == (1, 0, 0)
    assert len(verdict.faults()) == 1


@pytest.mark.parametrize("place", ["delivered", "waiting", "dead"])
def test_a_message_that_is_altered_is_not_its_task(place: str) -> None:
    spoiled = Message("a", "other")
    found: dict[str, Any] = {"delivered": Counter()}
    found[place] = Counter([spoiled]) if place == "delivered" else frozenset([spoiled])
    verdict = judge(told(a="spooled"), Places(**found))
    assert (verdict.altered, verdict.lost, verdict.strangers) == (1, 1, 0)
    assert (verdict.delivered, verdict.in_spool, verdict.in_dlq) == (0, 0, 0)


def test_a_whole_copy_beside_an_altered_one_saves_the_task_and_not_the_verdict() -> None:
    verdict = judge(told(a="confirmed"), Places(Counter([Message("a", "other"), Message("a", "a")])))
    assert (verdict.lost, verdict.altered, verdict.unexplained) == (0, 1, 1)


def test_a_receipt_for_an_id_that_nobody_gave_is_of_a_lost_task() -> None:
    ledger = told(a="confirmed")
    ledger.told("b", "confirmed")
    assert judge(ledger, Places(delivered(a=1))).lost == 1


def test_a_spooled_task_that_is_confirmed_later_counts_as_confirmed() -> None:
    ledger = told(a="spooled")
    assert len(ledger.confirmed) == 0
    ledger.confirmed_later("a")
    assert ledger.confirmed == {"a"}


# What a message must be -----------------------------------------------------------------------------------------------

LATER = datetime.fromtimestamp(1_900_086_400, UTC)
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "urgent": {"priority": 9},
    "of-a-family": {"root_id": "r", "parent_id": "p", "group": "g", "group_index": 3},
    "expires": {"expires": LATER},
    "with-headers": {"headers": {"traceparent": "00-1", "x-own": "ü"}},
}


def on_the_wire(task: Task) -> tuple[str, str, str, Basic.Properties, bytes]:
    envelope = ENCODER.encode(task)
    raw = attempt_properties(envelope, b"attempt-1", 1_900_000_000.0)
    properties = Basic.Properties()
    properties.unmarshal(int.from_bytes(raw[:2]), raw[2:])
    return envelope.routing_key, EXCHANGE, envelope.routing_key, properties, envelope.body


@pytest.mark.parametrize("task_type", WORKERS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_engine_makes_of_a_task_is_what_the_judge_expects(kind: str, task_type: str) -> None:
    task = Task(task_type=task_type, payload={"share_id": "s", "content": "Grüße"}, **KINDS[kind])
    assert found(*on_the_wire(task)) == (task.id, expected(task))
    row = ENCODER.encode(task)
    assert kept(task.id, row.routing_key, row.properties, row.body) == (task.id, expected(task))


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_tasks_have_one_digest(kind: str) -> None:
    other = a_task("1", **KINDS[kind])
    assert expected(a_task("2")) != expected(other)
    assert (expected(a_task("1")) == expected(other)) is (kind == "plain")


def test_an_attempts_own_and_the_brokers_own_change_no_digest() -> None:
    queue, exchange, key, properties, body = on_the_wire(a_task("1", expires=LATER))
    properties.message_id, properties.timestamp, properties.expiration = "2", datetime.now(UTC), "5"
    properties.headers = {**(properties.headers or {}), "x-delivery-count": 3, "origin": "somewhere@else"}
    assert found(queue, exchange, key, properties, body).digest == expected(a_task("1", expires=LATER))


NAMES = sorted(on_the_wire(a_task("1"))[3].headers or {})


@pytest.mark.parametrize("name", NAMES)
def test_each_header_is_missed(name: str) -> None:
    queue, exchange, key, properties, body = on_the_wire(a_task("1"))
    properties.headers = {key: value for key, value in (properties.headers or {}).items() if key != name}
    seen = found(queue, exchange, key, properties, body)
    assert seen.task_id == "1", "by its correlation id, if need be"
    assert seen.digest != expected(a_task("1"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("content_type", None),
        ("content_encoding", "latin-1"),
        ("delivery_mode", 1),
        ("priority", 3),
        ("correlation_id", "2"),
        ("expiration", "0"),
    ],
)
def test_each_property_is_missed(name: str, value: object) -> None:
    queue, exchange, key, properties, body = on_the_wire(a_task("1"))
    setattr(properties, name, value)
    assert found(queue, exchange, key, properties, body).digest != expected(a_task("1"))


@pytest.mark.parametrize("content", [b"", b"[[]", b"[[], {}, {}]", "[[],…".encode()[:-1]])
def test_a_body_that_is_empty_or_cut_off_is_not_its_tasks(content: bytes) -> None:
    queue, exchange, key, properties, _ = on_the_wire(a_task("1"))
    assert found(queue, exchange, key, properties, content).digest != expected(a_task("1"))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_where_it_lies_counts(place: int) -> None:
    """Queue, exchange, routing key: a queue that is bound to what is not its own takes other queues' tasks."""
    where: list[Any] = list(on_the_wire(a_task("1")))
    where[place] = "ml.summarize"
    assert found(*where).digest != expected(a_task("1"))


def test_a_row_with_the_message_of_another_task_is_not_whole() -> None:
    row, other = ENCODER.encode(a_task("1")), ENCODER.encode(a_task("2"))
    seen = kept("1", row.routing_key, other.properties, other.body)
    assert seen.task_id == "1"
    assert seen.digest not in {expected(a_task("1")), expected(a_task("2"))}


# With a queue and a file ----------------------------------------------------------------------------------------------


async def test_the_judge_finds_tasks_in_queues_spool_and_dlq_and_misses_the_one_that_was_purged(
    vhost_url: str, tmp_path: Path
) -> None:
    await publish(vhost_url, tmp_path, "e1", "e2", "sum1", "e1x")
    file = spool(tmp_path / "judged.db", ("w1", "w2"), ("d1",))
    ledger = asked(e1="confirmed", e2="spooled", sum1="confirmed", w1="spooled", w2="spooled", d1="spooled")
    found = Judge(vhost_url, file, ledger).verdict(patience=0.0)
    assert (found.accepted, found.delivered, found.in_spool, found.in_dlq) == (6, 3, 2, 1)
    assert (found.lost, found.duplicated, found.strangers, found.altered) == (0, 0, 1, 0)
    # Now a world that lost them: the queues are empty, and the spool forgot one.
    with closing(sqlite3.connect(file)) as db:
        db.execute(f"delete from {WAITING} where task_id = 'w1'")  # noqa: S608  # a name of our own
        db.commit()
    found = Judge(vhost_url, file, ledger).verdict(patience=0.0)
    assert (found.delivered, found.in_spool, found.in_dlq, found.lost, found.false_confirms) == (0, 1, 1, 4, 2)


async def test_a_task_published_twice_is_found_twice(vhost_url: str, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        await publish(vhost_url, tmp_path / folder, "again")
    found = Judge(vhost_url, tmp_path / "none.db", asked(again="confirmed")).verdict(patience=0.0)
    assert (found.delivered, found.duplicated, found.unexplained, found.lost) == (1, 1, 1, 0)


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
    monkeypatch.setattr(
        watcher, "take", lambda: watcher._delivered.update(Message(task_id, task_id) for task_id in next(late, []))
    )
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
        taken = [message.task_id for message in reader.take("ml.embed")]
        assert taken == [task.id for task in tasks], "more than two prefetch windows"
        assert reader.take("ml.embed") == []
        assert reader.take("ml.no-such-queue") == []
        assert reader.take("ml.summarize") == [], "a missing queue does not end the reader"


def test_no_broker_is_an_error_in_words() -> None:
    with pytest.raises(ReaderError, match="cannot reach the broker"):
        Reader("amqp://ml:ml_password@127.0.0.1:1/")
