"""Celery's events as results: which ones, of which task, and what is passed over."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from mlproducer.analytics import celery_events
from mlproducer.analytics.celery_events import EventReader
from mlproducer.core.results import ResultStatus, TaskResult

OURS = "vector_service.tasks.generate_embeddings"


def event(kind: str, uuid: str = "t1", **fields: Any) -> dict[str, Any]:
    return {"type": f"task-{kind}", "uuid": uuid, "timestamp": 12.5, "hostname": "w", "clock": 3, **fields}


@pytest.fixture
def reader() -> EventReader:
    return EventReader({OURS: "embed_vectors"}.get)


def read(reader: EventReader, *events: Any) -> list[TaskResult]:
    return [result for each in events for result in reader.read(json.dumps(each).encode())]


def test_the_end_of_a_task_is_a_result_of_the_name_that_came_before(reader: EventReader) -> None:
    received = event("received", name=OURS, args="('secret',)", kwargs="{}")
    assert read(reader, received, event("started"), event("succeeded", runtime=1.5, result="'secret'")) == [
        TaskResult("t1", "embed_vectors", 12.5, ResultStatus.SUCCEEDED, 1.5)
    ]


def test_many_events_in_one_message_are_read_in_order(reader: EventReader) -> None:
    many = [event("received", str(n), name=OURS) for n in range(3)]
    many += [event("failed", "0", exception="E"), event("revoked", "1", expired=True), event("retried", "2")]
    assert [(each.task_id, each.status, each.duration) for each in read(reader, many)] == [
        ("0", ResultStatus.FAILED, None),
        ("1", ResultStatus.REVOKED, None),
    ]


def test_a_cost_names_its_task_itself(reader: EventReader) -> None:
    (cost,) = read(reader, event("cost", name=OURS, cost="0.0042", model="small", part="0.1"))
    assert (cost.task_type, cost.cost, cost.model, cost.part) == ("embed_vectors", Decimal("0.0042"), "small", "0.1")
    assert cost.status is None


@pytest.mark.parametrize(
    "wrong",
    [
        event("succeeded", "never received", runtime=1.0),
        event("received", name="somebody.elses.task"),
        event("received", name=None),
        event("cost", name="somebody.elses.task", cost="1"),
        event("cost", name=OURS, cost="much"),
        event("cost", name=OURS, cost="-1"),
        event("cost", name=OURS, cost="1e9"),
        event("cost", name=OURS, cost=0.1),
        event("sent", name=OURS),
        {"type": "worker-heartbeat", "timestamp": 1.0},
        {},
        [],
        "text",
        [1],
    ],
)
def test_what_is_nobodys_or_unreadable_is_passed_over(reader: EventReader, wrong: object) -> None:
    assert read(reader, wrong) == []
    assert reader.read(b"\xff{") == []


def test_an_impossible_runtime_is_none(reader: EventReader) -> None:
    read(reader, event("received", name=OURS))
    assert [each.duration for each in read(reader, event("succeeded", runtime=-1.0))] == [None]


def test_the_names_that_are_remembered_are_bounded(reader: EventReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(celery_events, "MOST_NAMES", 2)
    read(reader, *(event("received", str(n), name=OURS) for n in (1, 2, 1, 3)))
    ended = read(reader, *(event("succeeded", str(n)) for n in (1, 2, 3)))
    assert [each.task_id for each in ended] == ["1", "3"]
