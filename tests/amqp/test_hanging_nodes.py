"""A node that hangs at whatever it is asked, and a queue that hangs on a node that does not: nothing else waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from pamqp import base, commands

from engine_bench import embed, until
from mlproducer import Producer, Settings, Task
from mlproducer.errors import BrokerError
from mlproducer.events import AttemptSettled, BreakerChanged, BreakerState, Event, RouteChanged, RouteState
from mlproducer.outcome import Confirmed, NotSent, Outcome, Unsure
from scripted_peer import Link, Peer, linked, served

ROUND = 15
"""Tasks of a route: enough for the breaker to open."""


def methods(*kinds: type[base.Frame]) -> Callable[[base.Frame], bool]:
    return lambda method: isinstance(method, kinds)


STAGES: dict[str, dict[str, Any]] = {
    "greeting": {"greets": False},
    "login": {"deaf": methods(commands.Connection.StartOk)},
    "virtual host": {"deaf": methods(commands.Connection.Open)},
    "channel": {"deaf": methods(commands.Channel.Open)},
    "exchange": {"deaf": methods(commands.Exchange.Declare)},
    "confirms": {"deaf": methods(commands.Confirm.Select)},
}
QUEUES: dict[str, dict[str, Any]] = {
    "queues": {"deaf": methods(commands.Queue.Declare)},
    "bindings": {"deaf": methods(commands.Queue.Bind)},
}


async def test_a_node_that_hangs_at_whatever_stage_costs_one_connect_and_the_next_one_is_another_node() -> None:
    async def tried(given: dict[str, Any]) -> tuple[BrokerError | None, str, str]:
        """What the first connect came to, and the nodes that it and the second one led to."""
        peers = Peer(**given), Peer()
        async with linked(*peers, connect=False) as link:
            failed = None
            try:
                await link.broker.connect()
            except BrokerError as error:
                failed = error
            first = link.broker.view().node
            if failed is not None:
                await link.broker.connect()
            assert link.broker.view().connected
            return failed, first, link.broker.view().node

    hung = dict(zip(STAGES, await asyncio.gather(*map(tried, STAGES.values())), strict=True))
    for stage, (failed, first, second) in hung.items():
        assert failed is not None, stage
        assert first != second, stage
    for failed, first, second in await asyncio.gather(*map(tried, QUEUES.values())):
        assert failed is None, "queues and bindings of a node that hangs are not waited for"
        assert first == second


async def settled(outcomes: list[Outcome]) -> Outcome:
    await until(lambda: bool(outcomes), 20)
    return outcomes[0]


@asynccontextmanager
async def two_routes(peer: Peer) -> AsyncIterator[tuple[Link, Callable[[str, float], list[Outcome]]]]:
    """A link, and an attempt alone on one of its routes within so many seconds."""
    async with linked(peer, queues=("ml.embed", "ml.other")) as link:

        def alone(key: str, seconds: float) -> list[Outcome]:
            return link.publish(queue=key, seconds=seconds, alone=True)

        yield link, alone


async def test_what_goes_alone_waits_for_nothing_that_hangs_on_another_route() -> None:
    async with two_routes(Peer(acks=True, stuck="ml.embed")) as (link, alone):
        stuck = alone("ml.embed", 20)
        assert await settled(alone("ml.other", 20)) == Confirmed()
        assert not stuck
        assert link.broker.view().in_flight == 1


async def test_where_there_are_few_channels_it_waits_for_its_turn() -> None:
    tune = commands.Connection.Tune(3, 131_072, 0)
    async with two_routes(Peer(tune=tune, acks=True, stuck="ml.embed")) as (link, alone):
        stuck = alone("ml.embed", 0.3)
        other = alone("ml.other", 20)
        assert isinstance(await settled(stuck), Unsure)
        assert await settled(other) == Confirmed()
        assert link.broker.view().in_flight == 0


async def test_a_node_that_opens_no_channel_for_what_goes_alone_takes_nothing_at_all() -> None:
    peer = Peer(acks=True)
    async with linked(peer, check_timeout=0.2) as link:
        peer.deaf = methods(commands.Channel.Open)
        assert isinstance(await settled(link.publish(alone=True)), NotSent)
        await until(lambda: bool(link.lost))


def summarize(n: object) -> Task:
    return Task(task_type="summarize_llm", payload={"share_id": f"s{n}", "content": f"text {n}"})


@asynccontextmanager
async def produced(*peers: Peer, **given: Any) -> AsyncIterator[tuple[Producer, list[Event]]]:
    """A producer on the peers, patient with routes, whose breaker would stay open until long after the test."""
    servers, events = [await served(peer) for peer in peers], list[Event]()
    settings = Settings.load(
        rabbitmq_url=",".join(f"amqp://ml:s3cret@127.0.0.1:{peer.port}/" for peer in peers),
        ml_spool_url="memory://",
        ml_confirm_timeout=0.5,
        ml_confirm_cap=0.5,
        ml_breaker_cooldown=300,
        ml_retry_first=0.05,
        ml_retry_cap=0.2,
        ml_drain_poll=0.05,
        ml_shutdown_timeout=0.2,
        **given,
    )
    try:
        async with Producer(settings, listeners=[events.append]) as producer:
            assert await producer.connected(20)
            yield producer, events
    finally:
        for server in servers:
            server.close()


async def is_confirmed(producer: Producer, tasks: Callable[[object], Task]) -> None:
    """A new task goes the direct way, sooner or later."""
    async with asyncio.timeout(20):
        n = 0
        while not (await producer.publish(tasks(n))).confirmed:
            n += 1
            await asyncio.sleep(0.02)


def unanswered(events: list[Event], task_type: str) -> list[Event]:
    settled = (each for each in events if isinstance(each, AttemptSettled) and each.task_type == task_type)
    return [each for each in settled if isinstance(each.outcome, Unsure)]


async def test_a_queue_that_stops_its_channel_holds_up_the_others_for_one_timeout() -> None:
    """All that is on the channel times out, and the breaker opens. That a new channel opens at once shows that it is not
    the broker; each route is tried apart, on a channel of its own; what passes closes the breaker.
    """
    peer = Peer(acks=True)
    async with produced(peer) as (p, events):
        assert (await p.publish(embed())).confirmed
        peer.stuck = "ml.embed"
        receipts = await asyncio.gather(*(p.publish(each(n)) for n in range(ROUND) for each in (embed, summarize)))
        assert not any(receipt.confirmed for receipt in receipts)
        assert BreakerState.OPEN in [each.state for each in events if isinstance(each, BreakerChanged)]
        await is_confirmed(p, summarize)
        events.clear()
        async with asyncio.timeout(30):
            while len(unanswered(events, "embed_vectors")) < 4:
                await p.publish(summarize("meanwhile"))
                await asyncio.sleep(0.02)
        assert len(unanswered(events, "summarize_llm")) <= 2, "none, but where the machine stood still"
        peer.stuck = ""
        await until(lambda: not p.status().spool_tasks, 20)
        assert (await p.publish(embed())).confirmed


async def test_a_queue_that_hangs_while_nothing_else_is_sent_keeps_no_new_route_waiting() -> None:
    peer = Peer(acks=True, stuck="ml.embed")
    async with produced(peer, ml_breaker_failures=1) as (p, events):
        assert not (await p.publish(embed())).confirmed
        await until(lambda: any(isinstance(each, RouteChanged) and each.state is RouteState.HELD for each in events))
        await is_confirmed(p, summarize)


async def test_a_link_that_moves_on_tries_each_route_at_once_and_apart() -> None:
    """As in a cluster: a queue whose leader hangs does so on each node, and the others pass as soon as the link is up."""
    hung, other = Peer(acks=True), Peer(acks=True, stuck="ml.embed")
    async with produced(hung, other, ml_health_timeout=0.3, ml_reconnect_first=0.05) as (p, _):
        for each in (embed, summarize):
            assert (await p.publish(each(0))).confirmed
        hung.silent, hung.acks = True, False
        await asyncio.gather(*(p.publish(each(n)) for n in range(ROUND) for each in (embed, summarize)))
        await is_confirmed(p, summarize)
        assert p.status().node == f"127.0.0.1:{other.port}"
        await until(lambda: p.status().spool_tasks == ROUND, 20)
        assert {row.routing_key for row in await p.waiting(limit=100)} == {"ml.embed"}
