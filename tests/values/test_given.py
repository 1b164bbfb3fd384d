"""Whatever a caller gives, and by whatever way: what is wrong with it is one InvalidTask."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from mlproducer.envelope.encode import Encoder, parse_task
from mlproducer.envelope.types import TaskTypes
from mlproducer.errors import InvalidTask
from mlproducer.shares.share import Share, ShareOptions, parse_share
from mlproducer.task import Task

GOOD: dict[str, Any] = {"task_type": "summarize_llm", "payload": {"share_id": "s", "content": "c"}}
ENCODER = Encoder(TaskTypes.builtin(), "o", 2**20)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Task(**{**GOOD, "task_type": "", "payload": 7}),
        lambda: Task.model_validate({**GOOD, "task_type": "", "payload": 7}),
        lambda: Task.model_validate_json('{"task_type": "", "payload": 7}'),
        lambda: Task.model_validate_strings({"task_type": "", "payload": "7"}),
        lambda: parse_task({"task_type": "", "payload": 7}),
        lambda: parse_task(b'{"task_type": "", "payload": 7}'),
    ],
)
def test_a_task_that_is_wrong_twice_says_so_in_one_error_of_ours(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidTask) as caught:
        make()
    assert [fault.field for fault in caught.value.faults] == ["task_type", "payload"]
    assert caught.value.field == "task_type"
    # Pydantic's own error holds what was given.
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize("make", [Share, Share.model_validate, parse_share])
def test_a_share_too(make: Callable[..., object]) -> None:
    wrong = {"id": "", "options": {"worker": {"x": object()}, "embed": 7}}
    with pytest.raises(InvalidTask) as caught:
        make(**wrong) if make is Share else make(wrong)
    assert [fault.field for fault in caught.value.faults] == ["id", "options.embed", "options.worker.x"]
    with pytest.raises(InvalidTask, match=r"^embed: "):
        ShareOptions(embed=7)


def test_inside_another_model_a_task_is_validated_as_any_model_is() -> None:
    class Order(BaseModel):
        task: Task
        number: int

    with pytest.raises(ValidationError) as caught:
        Order.model_validate({"task": {**GOOD, "payload": {"a": object()}}, "number": "x"})
    assert [each["loc"] for each in caught.value.errors()] == [("task", "payload", "a"), ("number",)]
    assert Order.model_validate({"task": GOOD, "number": 1}).task.payload == GOOD["payload"]


@pytest.mark.parametrize("field", ["eta", "expires"])
@pytest.mark.parametrize(
    "value",
    [
        *(0, 30, -1, 30.5, True, Decimal(30)),
        *("30", " 30 ", "1e9", "+30.5", "1893456000", "nan"),
        *(timedelta(30), date(2030, 1, 1), b"30", [2030, 1, 1]),
    ],
)
def test_what_is_no_moment_is_refused_with_the_words_to_use(field: str, value: Any) -> None:
    with pytest.raises(InvalidTask, match=rf"^{field}: .*no moment.*aware datetime.*offset.*timedelta"):
        Task(**{**GOOD, field: value})
    task = Task(**GOOD).model_copy(update={field: value})
    with pytest.raises(InvalidTask, match=rf"^{field}: .*no moment"):
        ENCODER.encode(task)


@pytest.mark.parametrize("text", ["30", '"30"', "1893456000", "true"])
def test_from_json_too(text: str) -> None:
    with pytest.raises(InvalidTask, match=r"^eta: .*no moment"):
        parse_task(f'{{"task_type": "t", "payload": {{}}, "eta": {text}}}')


def test_a_moment_without_a_zone_is_refused_and_one_with_is_taken() -> None:
    with pytest.raises(InvalidTask, match=r"^eta: needs a time zone: give .*\+00:00$"):
        Task(**GOOD, eta=datetime(2030, 1, 31))  # noqa: DTZ001  # what is tested
    with pytest.raises(InvalidTask, match=r"^eta: needs a time zone"):
        Task(**GOOD, eta="2030-01-31")
    for good in (datetime(2030, 1, 31, tzinfo=UTC), "2030-01-31T01:00:00+01:00", "2030-01-31 00:00Z"):
        assert Task(**GOOD, eta=good).eta == datetime(2030, 1, 31, tzinfo=UTC)
    assert Task(**GOOD, eta=None).eta is None


def test_celerys_countdown_is_told_what_it_is_here() -> None:
    with pytest.raises(InvalidTask, match=r"^countdown: a task has no countdown; give `eta`"):
        Task(**{**GOOD, "countdown": 30})
