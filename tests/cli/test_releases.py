"""What `doctor` knows of RabbitMQ's releases: each trap with the version that brings it, and whom it meets."""

from __future__ import annotations

import pytest

from mlproducer.cli.findings import Finding, Verdict
from mlproducer.cli.releases import of_release
from mlproducer.status import BrokerFacts, FoundQueue


def found(version: str, *queues: FoundQueue, product: str = "RabbitMQ") -> dict[str, Finding]:
    facts = BrokerFacts("node", product, version, 131_072, True, "", queues)  # a record's fields
    return {finding.check: finding for finding in of_release(facts)}


def queue(name: str, differs: str = "", *, made: str = "", consumers: int = 0) -> FoundQueue:
    return FoundQueue(name, exists=True, differs=differs, made=made, consumers=consumers)


UNLIMITED = queue("mine", "its x-delivery-limit is not set, and we would make it with 5")
CLASSIC = queue("old", "its x-queue-type is classic, and we would make it with quorum")


@pytest.mark.parametrize("version", ["3.10.8", "3.13.7", "4.0.5", "4.2.0", "4.3.6"])
def test_a_version_that_the_tests_are_run_on_is_fine(version: str) -> None:
    assert found(version)["broker version"].verdict is Verdict.OK
    assert all(finding.verdict is Verdict.OK for finding in found(version, queue("ml.embed")).values())


@pytest.mark.parametrize(
    ("version", "age"), [("3.9.27", "older"), ("3.8.0", "older"), ("4.4.0", "newer"), ("5.0.0-rc.1", "newer")]
)
def test_a_version_that_nobody_tried_is_said_to_be(version: str, age: str) -> None:
    finding = found(version)["broker version"]
    assert finding.verdict is Verdict.WARNING
    assert f"is {age} than" in finding.detail


@pytest.mark.parametrize(("version", "product"), [("", "RabbitMQ"), ("unknown", "RabbitMQ"), ("4.0.5", "LavinMQ")])
def test_of_what_is_no_rabbitmq_nothing_is_said(version: str, product: str) -> None:
    assert found(version, CLASSIC, product=product) == {}


@pytest.mark.parametrize(
    ("check", "since", "before", "hit", "words"),
    [
        ("redeliveries", "4.0.0", "3.13.7", UNLIMITED, "20 deliveries"),
        ("mirrored queues", "4.0.0", "3.13.7", CLASSIC, "on one node"),
        ("queue arguments", "4.3.0", "4.2.9", queue("q", made="classic queue q (x-queue-version 1)"), "asks for it"),
    ],
)
def test_a_trap_begins_with_its_release_and_warns_whom_it_meets(
    check: str, since: str, before: str, hit: FoundQueue, words: str
) -> None:
    assert check not in found(before, hit)
    assert found(since, queue("other"))[check].verdict is Verdict.OK
    met = found(since, queue("other"), hit)[check]
    assert met.verdict is not Verdict.OK
    assert words in met.detail
    assert hit.name in met.detail
    assert "other" not in met.detail
    assert met.todo


@pytest.mark.parametrize(
    ("check", "since", "before", "words"),
    [("transient queues", "4.0.0", "3.13.7", "Celery 5.4"), ("prefetch", "4.3.0", "4.2.9", "eta")],
)
def test_what_cannot_be_seen_from_outside_is_told_all_the_same(check: str, since: str, before: str, words: str) -> None:
    assert check not in found(before)
    assert words in found(since, queue("ml.embed", consumers=1))[check].detail


def test_a_queue_that_is_not_there_is_no_trap() -> None:
    missing = FoundQueue("gone", exists=False, differs="its x-queue-type is classic, and so on")
    assert found("4.3.6", missing)["mirrored queues"].verdict is Verdict.OK
