"""A route that fails holds up its own tasks and nobody else's."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from engine_bench import bench, embed, until
from mlproducer.core.quiet import AFTER, EVERY, OTHERS
from mlproducer.delivery.drain import LANES
from mlproducer.events import RouteState, TaskConfirmed, TaskDeadLettered
from mlproducer.outcome import Confirmed, Failure, Nacked, NotSent, NotSentCause, Returned, Unsure, UnsureCause
from mlproducer.ports import Settle
from mlproducer.rows import NewRow
from mlproducer.status import CheckStatus
from mlproducer.task import Envelope, TaskState
from weather import PATIENT, Weather, states, summary

EMBED, SUMMARIZE = "ml.embed", "ml.summarize"
LATE = Unsure(UnsureCause.CONFIRM_TIMEOUT)
OF_A_ROUTE: list[Failure] = [Nacked(), Returned(312, "NO_ROUTE"), NotSent(NotSentCause.CHANNEL_REFUSED, 404), LATE]


@pytest.mark.parametrize("fault", OF_A_ROUTE, ids=lambda fault: type(fault).__name__)
async def test_a_route_that_fails_is_held_spends_no_attempt_and_others_are_confirmed(fault: Failure) -> None:
    b = bench(**PATIENT)
    weather = Weather(b)
    weather.of[EMBED] = fault
    async with asyncio.timeout(30), b.producer as p:
        await p.connected(5)
        first = [await p.publish(embed(n)) for n in range(50)]
        assert {receipt.state for receipt in first} == {TaskState.SPOOLED}
        assert {(await p.publish(summary(n))).state for n in range(20)} == {TaskState.CONFIRMED}
        await until(lambda: weather.sent[EMBED] >= 6)  # the first, and five probes
        assert weather.sent[EMBED] < 50
        health = {check.name: check for check in p.health().checks}
        assert health["routes"].status is CheckStatus.DEGRADED
        assert EMBED in health["routes"].detail
        weather.of.clear()
        assert await p.drained(10)
        assert {(await p.receipt(receipt.task_id)).attempts for receipt in first} == {0}
        assert {check.status for check in p.health().checks if check.name == "routes"} == {CheckStatus.OK}
        places = await b.places()
        assert not places["spool"]
        assert not places["dead"]
        assert len(places["broker"]) == 70
    assert states(b) == [(EMBED, RouteState.HELD), (EMBED, RouteState.OPEN)]


async def test_what_waits_for_a_held_route_keeps_no_other_from_being_drained() -> None:
    b = bench(**PATIENT)
    weather = Weather(b)
    weather.of[EMBED] = Nacked()
    b.broker.down = True
    async with asyncio.timeout(30), b.producer as p:
        await p.connected(5)
        for n in range(300):
            await p.publish(embed(n))
        for n in range(20):
            await p.publish(summary(n))
        b.broker.down = False
        p.reconnect()
        await until(lambda: len(b.told(TaskConfirmed)) == 20)
        assert len(b.broker.queues[SUMMARIZE]) == 20
        assert len(await p.waiting(limit=1_000)) == 300
        assert await b.places() == {**(await b.places()), "dead": []}
        weather.of.clear()
        assert await p.drained(20)


async def test_a_queue_that_answers_nothing_keeps_its_own_rows_and_no_batch() -> None:
    """Its row was leased together with others: they are settled without it."""
    b = bench(**PATIENT)
    weather = Weather(b)
    weather.of[EMBED] = Weather.SILENT
    b.broker.down = True
    async with asyncio.timeout(30), b.producer as p:
        await p.connected(5)
        for n in range(10):
            await p.publish(embed(n))
            await p.publish(summary(n))
        b.broker.down = False
        p.reconnect()
        await until(lambda: len(b.told(TaskConfirmed)) == 10)
        assert len(weather.kept) == 10
        weather.of.clear()
        weather.answer(Confirmed())
        assert await p.drained(10)


async def test_many_batches_that_nobody_answers_keep_no_later_one_waiting() -> None:
    b = bench(**PATIENT, ml_drain_batch=1, ml_confirm_timeout=60, ml_drain_lease=120)
    weather = Weather(b)
    weather.of[EMBED] = Weather.SILENT
    b.broker.blocked = True
    async with asyncio.timeout(30), b.producer as p:
        await p.connected(5)
        for n in range(LANES + 2):
            await p.publish(embed(n))
        b.broker.blocked = False
        await until(lambda: len(weather.kept) > LANES, 20)
        weather.of.clear()
        weather.answer(Confirmed())


async def test_a_message_that_fails_while_its_neighbours_pass_goes_to_the_dead_letters_alone() -> None:
    b = bench(**PATIENT)
    publish = b.broker.publish

    def strict(envelope: Envelope, settle: Settle, *, deadline: float, alone: bool = False) -> None:
        if envelope.task_id == "bad":
            asyncio.get_running_loop().call_soon(settle, Nacked())
        else:
            publish(envelope, settle, deadline=deadline, alone=alone)

    b.broker.publish = strict  # type: ignore[method-assign]  # one message that the queue never takes
    async with asyncio.timeout(30), b.producer as p:
        await p.connected(5)
        await p.publish(embed(id="bad"))
        good: list[object] = []
        while not b.told(TaskDeadLettered):
            good.append(await p.publish(embed(len(good))))
            await asyncio.sleep(0.02)
        letter = await p.dead_letter("bad")
        assert (letter.reason, letter.attempts) == ("nacked", 3)
        assert await p.drained(10)
        assert len(b.broker.queues[EMBED]) == len(good)
    assert states(b) == [(EMBED, RouteState.HELD), (EMBED, RouteState.OPEN)]


async def test_a_queue_that_never_was_ends_in_the_dead_letters_after_the_patience() -> None:
    b = bench(**{**PATIENT, "ml_route_patience": 0.3})
    weather = Weather(b)
    weather.of[EMBED] = Returned(312, "NO_ROUTE")
    async with asyncio.timeout(30), b.producer as p:
        await p.connected(5)
        for n in range(20):
            await p.publish(embed(n))
        await until(lambda: len(b.told(TaskDeadLettered)) == 20)
        assert {letter.reason for letter in await p.dead_letters()} == {"returned"}
        assert "longer than ML_ROUTE_PATIENCE" in str(p.health().as_dict())
    assert states(b) == [(EMBED, RouteState.HELD), (EMBED, RouteState.FAILING)]


async def test_a_new_task_for_a_held_route_is_spooled_at_once_with_the_reason() -> None:
    b = bench(**{**PATIENT, "ml_retry_first": 30, "ml_retry_cap": 30})
    weather = Weather(b)
    weather.of[EMBED] = Nacked()
    async with asyncio.timeout(30), b.producer as p:
        await p.connected(5)
        await p.publish(embed(0))
        receipt = await p.publish(embed(1))
        assert receipt.state is TaskState.SPOOLED
        assert "nacked" in str(receipt.reason)
        assert "ML_ROUTE_PATIENCE" in str(receipt.reason)
        assert weather.sent[EMBED] == 1
        b.broker.drop()
        weather.of.clear()
        await until(lambda: len(b.broker.queues.get(EMBED, ())) == 1)  # a new link: no 30 s are waited for


async def test_a_leaving_producer_does_not_wait_for_a_held_route() -> None:
    b = bench(**{**PATIENT, "ml_retry_first": 30, "ml_retry_cap": 30, "ml_shutdown_timeout": 20})
    Weather(b).of[EMBED] = Nacked()
    async with asyncio.timeout(10), b.producer as p:
        await p.connected(5)
        await p.publish(embed(0))


async def test_a_leaving_producer_does_not_wait_for_what_is_due_on_a_held_route() -> None:
    """What comes while the route is held is due at once, and yet nothing can be done for it."""
    b = bench(**{**PATIENT, "ml_retry_first": 30, "ml_retry_cap": 30, "ml_shutdown_timeout": 300})
    Weather(b).of[EMBED] = Nacked()
    async with asyncio.timeout(30), b.producer as p:
        await p.connected(5)
        for n in range(3):
            await p.publish(embed(n))


async def test_timeouts_of_one_route_while_others_pass_do_not_open_the_breaker() -> None:
    b = bench(**{**PATIENT, "ml_breaker_failures": 1})
    weather = Weather(b)
    weather.of[EMBED] = Weather.SILENT
    async with asyncio.timeout(30), b.producer as p:
        await p.connected(5)
        waiting = asyncio.ensure_future(p.publish(embed()))
        await until(lambda: len(weather.kept) == 1)
        await p.publish(summary())
        weather.answer(LATE)
        assert (await waiting).state is TaskState.SPOOLED
        assert p.status().breaker == "closed"


@pytest.mark.parametrize(("weights", "embeds"), [({}, 25), ({EMBED: 3}, 37), ({SUMMARIZE: 9}, 5)])
async def test_a_slow_start_and_all_that_follows_is_divided_by_weight_whoever_came_first(
    weights: dict[str, int], embeds: int
) -> None:
    b = bench(**PATIENT, ml_route_weights=weights, ml_drain_batch=100)
    sent: list[str] = []
    publish = b.broker.publish

    def noting(envelope: Envelope, settle: Settle, *, deadline: float, alone: bool = False) -> None:
        sent.append(envelope.routing_key)
        publish(envelope, settle, deadline=deadline, alone=alone)

    b.broker.publish = noting  # type: ignore[method-assign]  # in which order it hears of them
    b.broker.down = True
    async with asyncio.timeout(30), b.producer as p:
        for n in range(150):
            await p.publish(embed(n))
        for n in range(150):
            await p.publish(summary(n))
        b.broker.down = False
        p.reconnect()
        assert await p.drained(20)
    assert abs(sent[:50].count(EMBED) - embeds) <= 1, "the first batch after a connect"
    assert abs(sent[:150].count(EMBED) - 3 * embeds) <= 6, "while both have some"
    assert len(sent) == 300


async def test_weights_divide_the_window_and_leave_room_to_the_next_route(tmp_path: Path) -> None:
    """And new tasks of a healthy route go directly, while thousands of another wait in the file and fill its share."""
    of_window: dict[str, Any] = {"ml_max_in_flight": 90, "ml_drain_share": 1, "ml_route_weights": {EMBED: 4}}
    b = bench(**PATIENT, **of_window, ml_spool_url="", ml_data_dir=tmp_path)
    weather = Weather(b)
    weather.of[EMBED] = Weather.SILENT
    b.broker.down = True
    async with asyncio.timeout(60), b.producer as p:
        await p.publish(summary("first"))  # who is the only one has the whole window
        rows = (NewRow(Envelope(f"e{n}", "embed_vectors", EMBED, b"", b""), 0.0) for n in range(3_000))
        await asyncio.gather(*map(b.spool.put, rows))
        b.broker.down = False
        p.reconnect()
        await until(lambda: len(weather.kept) == 80, 20)  # eight ninths: twice four times what is free
        for n in range(100):
            assert (await p.publish(summary(n))).state is TaskState.CONFIRMED
        assert len(weather.kept) == 80
        assert (await p.publish(embed("new"))).state is TaskState.SPOOLED, "its share is full"
        weather.of.clear()
        weather.answer(Confirmed())
        await until(lambda: len(b.told(TaskConfirmed)) > 200, 20)


async def test_a_queue_that_answers_nothing_is_found_by_its_neighbours_before_the_time_of_its_attempts_is_over() -> (
    None
):
    """RabbitMQ would stop reading from the connection: new tasks of others go on another channel, and its own wait."""
    b = bench(**PATIENT)
    weather = Weather(b)
    weather.of[EMBED] = Weather.SILENT
    async with asyncio.timeout(30), b.producer as p:
        await p.connected(5)
        silent = [asyncio.create_task(p.publish(embed(n))) for n in range(40)]
        await until(lambda: len(weather.kept) == 40)
        await asyncio.sleep(AFTER)
        for n in range(OTHERS + EVERY):
            assert (await p.publish(summary(n))).confirmed
        assert b.broker.moves == 1
        assert (await p.publish(embed("new"))).state is TaskState.SPOOLED
        assert len(weather.kept) == 40, "it goes on no other channel either"
        weather.of.clear()
        weather.answer(Confirmed())
        assert all(receipt.confirmed for receipt in await asyncio.gather(*silent))
        assert (await p.publish(embed("after"))).confirmed
        assert await p.drained(10)
        assert b.broker.moves == 1
    assert states(b) == [], "nothing is judged by it"


async def test_a_producer_of_one_route_has_nobody_to_move_for() -> None:
    b = bench(**PATIENT)
    weather = Weather(b)
    weather.of[EMBED] = Weather.SILENT
    async with asyncio.timeout(30), b.producer as p:
        await p.connected(5)
        silent = [asyncio.create_task(p.publish(embed(n))) for n in range(2 * EVERY)]
        await until(lambda: len(weather.kept) == 2 * EVERY)
        weather.answer(Confirmed())
        await asyncio.gather(*silent)
    assert b.broker.moves == 0
