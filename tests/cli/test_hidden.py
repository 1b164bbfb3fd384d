"""What a confirm can hide is told by `doctor`: each judgement of what the management API says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from management_api import management_api
from mlproducer.amqp.config import Credentials
from mlproducer.amqp.management import Management
from mlproducer.cli.findings import Verdict
from mlproducer.cli.hidden import of_hidden
from mlproducer.errors import BrokerError
from mlproducer.status import Behind, BoundTo, QueueRules

GOOD = QueueRules(
    durable=True, passing=False, bounded=False, overflow="drop-head", expires=False, vanishes=False, keeps_dead=False
)
OWN = BoundTo("ml.embed", "ml.embed", queue=True)
FINE = Behind(alternate="", bound=(OWN,), queues={"ml.embed": GOOD}, alarms=())


def told(behind: Behind) -> dict[str, str]:
    """The warnings."""
    found = of_hidden(behind, "ml.tasks", ["ml.embed", "ml.summarize"])
    return {each.check: each.detail for each in found if each.verdict is Verdict.WARNING}


def queue(**changes: Any) -> Behind:
    return replace(FINE, queues={"ml.embed": replace(GOOD, **changes)})


def test_a_broker_as_we_would_make_it_hides_nothing() -> None:
    assert told(FINE) == {}


@pytest.mark.parametrize(
    ("behind", "check", "words"),
    [
        (replace(FINE, alarms=("rabbit@a: memory alarm",)), "alarms of nodes", "memory alarm"),
        (replace(FINE, alternate="lost"), "alternate exchange", "is confirmed"),
        (replace(FINE, bound=(OWN, BoundTo("spy", "#", queue=True))), "other bindings", "the queue spy takes #"),
        (
            replace(
                FINE,
                bound=(OWN, BoundTo("spy", "ml.*", queue=True)),
                queues={"ml.embed": GOOD, "spy": replace(GOOD, durable=False)},
            ),
            "other bindings",
            "the transient queue spy takes ml.*",
        ),
        (replace(FINE, bound=(OWN, BoundTo("more", "#", queue=False))), "other bindings", "the exchange more"),
        (replace(FINE, bound=()), "after the confirm in ml.embed", "nothing binds it"),
        (queue(durable=False), "after the confirm in ml.embed", "not durable"),
        (queue(passing=True), "after the confirm in ml.embed", "last consumer"),
        (queue(bounded=True), "after the confirm in ml.embed", "its oldest tasks are dropped"),
        (queue(bounded=True, keeps_dead=True), "after the confirm in ml.embed", "go to its dead letter exchange"),
        (queue(expires=True), "after the confirm in ml.embed", "message-ttl"),
        (queue(vanishes=True), "after the confirm in ml.embed", "without use"),
    ],
)
def test_what_hides_a_loss_is_a_warning(behind: Behind, check: str, words: str) -> None:
    found = told(behind)
    assert list(found) == [check]
    assert words in found[check]


@pytest.mark.parametrize(
    "behind",
    [
        queue(bounded=True, overflow="reject-publish"),
        replace(FINE, bound=(OWN, BoundTo("results", "result.#", queue=True))),
    ],
)
def test_what_hides_none_is_no_warning(behind: Behind) -> None:
    assert told(behind) == {}


ANSWERS: dict[str, Any] = {
    "/api/exchanges/a%2Fb/ml.tasks": {"arguments": {}, "policy": "net"},
    "/api/policies/a%2Fb/net": {"definition": {"alternate-exchange": "lost"}},
    "/api/exchanges/a%2Fb/ml.tasks/bindings/source": [
        {"destination": "ml.embed", "destination_type": "queue", "routing_key": "ml.embed"},
        {"destination": "spy", "destination_type": "queue", "routing_key": "#"},
    ],
    "/api/queues/a%2Fb": [
        {
            "name": "ml.embed",
            "durable": True,
            "arguments": {"x-queue-type": "quorum"},
            "effective_policy_definition": {"max-length": 5},
            "messages_unacknowledged": 1_234,
            "message_stats": {"publish_details": {"rate": 2.0}, "ack_details": {"rate": 1.5}},
        },
        {"name": "spy", "durable": False, "auto_delete": True, "arguments": {}, "effective_policy_definition": []},
    ],
    "/api/nodes": [{"name": "rabbit@a", "mem_alarm": True, "disk_free_alarm": False}],
}


@pytest.fixture
def api() -> Iterator[str]:
    with management_api(ANSWERS) as root:
        yield root


def test_the_api_is_read_arguments_and_policies_together(api: str) -> None:
    behind = Management(api, Credentials("ml", "ml_password"), timeout=10).look("a/b", "ml.tasks")
    assert behind.alternate == "lost"
    assert behind.alarms == ("rabbit@a: memory alarm",)
    assert behind.queues["ml.embed"] == replace(GOOD, bounded=True)
    assert (behind.queues["spy"].durable, behind.queues["spy"].passing) == (False, True)
    assert set(told(behind)) == {
        "alarms of nodes",
        "alternate exchange",
        "other bindings",
        "after the confirm in ml.embed",
    }
    traffic = {each.check: each.detail for each in of_hidden(behind, "ml.tasks", ["ml.embed", "spy"])}
    assert traffic["traffic of ml.embed"] == (
        "workers hold 1,234 that they have not acknowledged, 2.0/s published, 1.5/s acknowledged"
    )
    assert "traffic of spy" not in traffic, "nothing is known of it"


@pytest.mark.parametrize(
    ("password", "vhost", "words"), [("wrong", "a/b", "refuses the login"), ("ml_password", "none", "404")]
)
def test_an_api_that_refuses_is_an_error_that_names_the_setting(
    api: str, password: str, vhost: str, words: str
) -> None:
    with pytest.raises(BrokerError, match=words) as raised:
        Management(api, Credentials("ml", password), timeout=10).look(vhost, "ml.tasks")
    assert "RABBITMQ_MANAGEMENT_URL" in str(raised.value)
    assert password not in str(raised.value)


def test_an_api_that_is_not_there_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(BrokerError, match="RABBITMQ_MANAGEMENT_URL"):
        Management("http://127.0.0.1:1/", Credentials("ml", "x"), timeout=5).look("/", "ml.tasks")
