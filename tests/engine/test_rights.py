"""A right that is lost, or an exchange that is gone, is one fault of all routes: held once, probed by one, spent by none."""

from __future__ import annotations

import asyncio

import pytest

from engine_bench import Bench, bench, embed, until
from mlproducer import Task
from mlproducer.amqp.config import Credentials
from mlproducer.events import RouteChanged, RouteState, TaskDeadLettered
from mlproducer.outcome import EVERY_ROUTE, Failure, NotSent, NotSentCause, Unsure, UnsureCause
from mlproducer.status import CheckStatus
from mlproducer.task import TaskState
from weather import PATIENT, Weather, states, summary

QUEUES = ("ml.embed", "ml.summarize", "ml.transcribe")
SAID = "ACCESS_REFUSED - access to exchange 'ml.tasks' in vhost '/' refused for user 'ml'"
ALONE = NotSent(NotSentCause.CHANNEL_REFUSED, 403, SAID, route=EVERY_ROUTE)
IN_COMPANY = Unsure(UnsureCause.CHANNEL_REFUSED, f"403 {SAID}", route=EVERY_ROUTE)
GONE = NotSent(NotSentCause.CHANNEL_REFUSED, 404, "NOT_FOUND - no exchange 'ml.tasks'", route=EVERY_ROUTE)


def transcription(n: object) -> Task:
    return Task(
        task_type="transcribe_whisper", payload={"share_id": f"s{n}", "content": f"https://example.org/{n}.mp3"}
    )


def one_of_each(n: int) -> Task:
    return (embed, summary, transcription)[n % 3](n)


def refuse_all(weather: Weather, outcome: Failure) -> None:
    weather.of.update(dict.fromkeys(QUEUES, outcome))


async def attempts_spent(b: Bench) -> set[int]:
    return {row.attempts for row in await b.producer.waiting(limit=10_000)}


@pytest.mark.parametrize("refusal", [ALONE, IN_COMPANY, GONE], ids=["one in flight", "several", "exchange"])
async def test_a_refusal_of_the_exchange_holds_all_routes_once_and_spends_nothing(refusal: NotSent | Unsure) -> None:
    b = bench(**PATIENT, ml_retry_first=0.1, ml_retry_cap=0.2)
    weather = Weather(b)
    async with asyncio.timeout(60), b.producer as p:
        await p.connected(5)
        refuse_all(weather, refusal)
        receipts = [await p.publish(one_of_each(n)) for n in range(90)]
        assert {receipt.state for receipt in receipts} == {TaskState.SPOOLED}
        sent = sum(weather.sent.values())
        assert sent <= 30, "the first, and a probe at a time: not one for each route or task"
        assert str(refusal.text.partition(" - ")[2]) in str(receipts[-1].reason)
        await until(lambda: sum(weather.sent.values()) >= sent + 5)
        assert await attempts_spent(b) == {0}
        health = {check.name: check for check in p.health().checks}
        assert health["routes"].status is CheckStatus.DEGRADED
        assert "all routes of the exchange" in health["routes"].detail
        assert "no exchange" in health["routes"].detail or "refused for user 'ml'" in health["routes"].detail
        probes = len(b.broker.alone)
        weather.of.clear()
        assert await p.drained(20)
        assert len(b.broker.alone) <= probes + 1, "no row is kept on the slow way of one at a time"
        assert not (await b.places())["dead"]
        assert len((await b.places())["broker"]) == 90
    assert states(b) == [(EVERY_ROUTE, RouteState.HELD), (EVERY_ROUTE, RouteState.OPEN)]


async def test_each_refused_probe_asks_for_credentials_anew_and_new_ones_heal_it() -> None:
    """A token that is over: the callback gives a new one at last. No storm of links while it does not."""
    asked = 0

    async def credentials() -> Credentials:
        return Credentials("ml", "token")

    b = bench(**PATIENT, credentials=credentials)
    weather = Weather(b)
    connect = b.broker.connect

    async def connecting() -> None:
        nonlocal asked
        asked += 1
        await connect()

    b.broker.connect = connecting  # type: ignore[method-assign]  # each connect asks, as the real one does
    async with asyncio.timeout(60), b.producer as p:
        await p.connected(5)
        refuse_all(weather, ALONE)
        for n in range(30):
            await p.publish(one_of_each(n))
        await until(lambda: asked >= 4)
        assert asked <= 2 + sum(weather.sent.values()), "one link for a refusal"
        weather.of.clear()
        assert await p.drained(20)
        calm = asked
        for n in range(30):
            assert (await p.publish(one_of_each(n))).state is TaskState.CONFIRMED
        assert asked == calm
        assert not (await b.places())["dead"]


async def test_past_the_patience_refusals_spend_attempts_and_end_with_the_brokers_words() -> None:
    b = bench(**{**PATIENT, "ml_route_patience": 0.2})
    weather = Weather(b)
    refuse_all(weather, ALONE)
    async with asyncio.timeout(60), b.producer as p:
        await p.connected(5)
        for n in range(12):
            await p.publish(one_of_each(n))
        await until(lambda: len(b.told(TaskDeadLettered)) == 12)
        letters = await p.dead_letters()
        assert {(letter.reason, letter.code, letter.attempts) for letter in letters} == {("channel_refused", 403, 3)}
        assert all(SAID in letter.text for letter in letters)
    assert [event.state for event in b.told(RouteChanged)] == [RouteState.HELD, RouteState.FAILING]


async def test_a_topic_that_is_refused_holds_its_route_and_its_neighbours_go_on_in_company() -> None:
    topic = "ACCESS_REFUSED - access to topic 'ml.embed' in exchange 'ml.tasks' in vhost '/' refused for user 'ml'"
    told = Unsure(UnsureCause.CHANNEL_REFUSED, topic, route="ml.embed")
    b = bench(**PATIENT)
    weather = Weather(b)
    async with asyncio.timeout(60), b.producer as p:
        await p.connected(5)
        weather.of.update({"ml.embed": told, "ml.summarize": told})  # they shared a channel
        await asyncio.gather(p.publish(embed(0)), p.publish(summary(0)))
        del weather.of["ml.summarize"]
        await until(lambda: len(b.broker.queues.get("ml.summarize", ())) == 1)
        assert (await p.publish(summary(1))).state is TaskState.CONFIRMED
        await until(lambda: len(b.broker.alone) == 0 and weather.sent["ml.embed"] >= 3)
        assert await attempts_spent(b) == {0}
        weather.of.clear()
        assert await p.drained(20)
    assert states(b) == [("ml.embed", RouteState.HELD), ("ml.embed", RouteState.OPEN)]


async def test_a_neighbour_that_passes_on_an_older_channel_makes_no_refusal_the_messages_own() -> None:
    """RabbitMQ remembers for a channel what was allowed: it goes on for a while, and each new one is refused."""
    b = bench(**PATIENT)
    weather = Weather(b)
    async with asyncio.timeout(60), b.producer as p:
        await p.connected(5)
        weather.of["ml.embed"] = ALONE
        for n in range(20):
            await p.publish(embed(n))
            await p.publish(summary(n))
            await asyncio.sleep(0.02)
        assert not b.told(TaskDeadLettered)
        assert await attempts_spent(b) <= {0}
        weather.of.clear()
        assert await p.drained(20)
