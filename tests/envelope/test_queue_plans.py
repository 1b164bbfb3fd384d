"""How a queue is made: what a route in the user's file may say of it, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlproducer.envelope.queues import DEFAULT, QueuePlan, queue_arguments
from mlproducer.envelope.types import Route, TaskType, TaskTypes
from mlproducer.errors import SettingsError
from mlproducer.settings import Settings
from mlproducer.wiring.choices import queues_of

HEAD = '[task_types.mine.routes.api]\ncelery_task = "my.task"\nqueue = "mine"\n'
FIELDS = "[task_types.mine.fields]\n"


def plan(tmp_path: Path, *lines: str) -> QueuePlan:
    file = tmp_path / "types.toml"
    file.write_text(HEAD + "\n".join(lines) + "\n" + FIELDS)
    (found,) = TaskTypes(TaskTypes.from_toml(file)).plans
    return found


@pytest.mark.parametrize(
    ("lines", "arguments"),
    [
        ((), DEFAULT),
        (('queue_type = "quorum"',), DEFAULT),
        (('queue_type = "quorum"', "arguments = {}"), {"x-queue-type": "quorum"}),
        (("arguments = { x-delivery-limit = 20 }",), {"x-queue-type": "quorum", "x-delivery-limit": 20}),
        (('queue_type = "classic"',), {}),
        (
            ('queue_type = "classic"', 'arguments = { x-max-priority = 9, x-queue-mode = "lazy" }'),
            {"x-max-priority": 9, "x-queue-mode": "lazy"},
        ),
        (
            ('arguments = { x-dead-letter-exchange = "dlx", x-single-active-consumer = true }',),
            {"x-queue-type": "quorum", "x-dead-letter-exchange": "dlx", "x-single-active-consumer": True},
        ),
    ],
)
def test_a_route_of_the_file_says_how_its_worker_declares_the_queue(
    tmp_path: Path, lines: tuple[str, ...], arguments: dict[str, str | int | bool]
) -> None:
    assert plan(tmp_path, *lines) == QueuePlan("mine", arguments, declare=True, at_start=True)


def test_a_queue_may_be_left_to_others(tmp_path: Path) -> None:
    assert plan(tmp_path, "declare = false") == QueuePlan("mine", declare=False, at_start=True)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (('queue_type = "stream"',), "queue_type"),
        (("queue_type = 1",), "queue_type"),
        (('queue_typ = "classic"',), "queue_typ: unknown key"),
        (('declare = "no"',), "declare"),
        (("declare = false", 'queue_type = "classic"'), "declare = false"),
        (("declare = false", "arguments = {}"), "declare = false"),
        (("arguments = { x-expires = 60000 }",), "x-expires: .*deletes the queue.*declare = false"),
        (('arguments = { x-queue-type = "classic" }',), "x-queue-type: say it as queue_type"),
        (
            ("arguments = { x-max-prio = 5 }",),
            "x-max-prio: RabbitMQ has no such argument for a quorum queue; there are",
        ),
        (("arguments = { x-max-priority = 5 }",), "x-max-priority: only for a classic queue"),
        (('queue_type = "classic"', "arguments = { x-delivery-limit = 5 }"), "x-delivery-limit: only for a quorum"),
        (("arguments = { x-delivery-limit = true }",), "x-delivery-limit: must be a whole number"),
        (('arguments = { x-delivery-limit = "5" }',), "x-delivery-limit: must be a whole number"),
        (("arguments = { x-message-ttl = -1 }",), "x-message-ttl: must be a whole number of 0 or more"),
        (("arguments = { x-message-ttl = 1.5 }",), "x-message-ttl: must be a whole number"),
        (('queue_type = "classic"', "arguments = { x-max-priority = 256 }"), "x-max-priority: .* 255 at most"),
        (('arguments = { x-overflow = "drop" }',), "x-overflow: must be drop-head or"),
        (("arguments = { x-dead-letter-exchange = 7 }",), "x-dead-letter-exchange: must be a text"),
        (("arguments = { x-single-active-consumer = 1 }",), "x-single-active-consumer: must be true or false"),
        (("arguments = [1]",), "arguments"),
    ],
)
def test_what_the_broker_would_refuse_or_lose_tasks_over_is_refused_with_file_and_table(
    tmp_path: Path, lines: tuple[str, ...], words: str
) -> None:
    with pytest.raises(SettingsError, match=rf"types\.toml: \[task_types\.mine\.routes.*{words}"):
        plan(tmp_path, *lines)


def a_type(name: str, route: Route) -> TaskType:
    from pydantic import BaseModel  # noqa: PLC0415  # an empty model is all that is needed

    return TaskType(name, {"api": route}, BaseModel)


def test_routes_to_one_queue_agree_and_one_that_says_nothing_agrees_with_all() -> None:
    classic = queue_arguments("classic", None)
    says, silent = Route("a", "q", classic, at_start=True), Route("b", "q")
    assert TaskTypes([a_type("a", says), a_type("b", silent)]).plans == (QueuePlan("q", {}, at_start=True),)
    assert TaskTypes([a_type("b", silent), a_type("a", says)]).plans[0].arguments == {}
    for other in (Route("c", "q", DEFAULT), Route("c", "q", declare=False)):
        with pytest.raises(SettingsError, match=r"queue q: two routes .* different things"):
            TaskTypes([a_type("a", says), a_type("c", other)])


def test_the_queue_of_dead_letters_is_named_in_the_settings_and_built_in_queues_are_not() -> None:
    settings = Settings.load(ml_dlq_publish=True, ml_dlq_queue="ml.dead")
    plans = {plan.name: plan for plan in queues_of(settings, TaskTypes.builtin())}
    assert [name for name, plan in plans.items() if plan.at_start] == ["ml.dead"]
    assert all(plan.arguments == DEFAULT and plan.declare for plan in plans.values())
    named = queues_of(Settings.load(ml_dlq_publish=True, ml_dlq_queue="ml.embed"), TaskTypes.builtin())
    assert [plan.name for plan in named if plan.at_start] == ["ml.embed"]
