"""What is at the broker: one connection, which changes nothing there.

To `compare`, a queue that exists is declared once more as ours: the broker changes nothing of it, and refuses with the
first argument that differs. One that does not exist is only asked for. Without it, nothing is declared at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from dataclasses import replace
from typing import Final

from pamqp import commands, header

from mlproducer.amqp import faults
from mlproducer.amqp.addresses import Addresses
from mlproducer.amqp.config import AmqpConfig, Credentials
from mlproducer.amqp.connection import Connection
from mlproducer.amqp.faults import ChannelClosed, connect_failed
from mlproducer.amqp.questions import is_there, look, refusal
from mlproducer.amqp.topology import EXCHANGE_TYPE, declaration
from mlproducer.envelope.queues import QueuePlan
from mlproducer.errors import BrokerError, ConnectionLost
from mlproducer.jobs import heard
from mlproducer.status import BrokerFacts, FoundQueue

_INEQUIVALENT: Final = re.compile(
    r"inequivalent arg '(?P<name>[^']+)' for (?P<what>queue|exchange) .*?: received "
    r"(?P<ours>none|'[^']*'|the value '[^']*'.*?) but current is (?P<theirs>none|'[^']*'|the value '[^']*')"
)
_QUOTED: Final = re.compile(r"'([^']*)'")


async def inspect(config: AmqpConfig, *, compare: bool) -> BrokerFacts:
    """On the first node that answers. Raises: BrokerError, of the last one."""
    error: BrokerError | None = None
    blocked, told = "", asyncio.Event()

    def alarm(on: bool, reason: str) -> None:  # noqa: FBT001  # the fact itself
        nonlocal blocked
        blocked = reason or "no reason given" if on else ""
        told.set()

    for endpoint in config.endpoints:
        connection: Connection | None = None
        try:
            own = config.of(endpoint)
            async with asyncio.timeout(own.connection_timeout):
                login = await _login(config, endpoint.credentials)
                sock = await Addresses().connect(endpoint.host, endpoint.port)
                connection = await Connection.open(endpoint, own, sock, login, _ignored, alarm, _ignored)
                facts = await _look(connection, config, compare=compare)
                await _knock(connection, told, own.check_timeout)
                return replace(facts, blocked=blocked)
        except Exception as exc:  # noqa: BLE001  # `connect_failed` has words for each kind
            error = connect_failed(endpoint.node, exc, tls=endpoint.tls is not None)
        finally:
            if connection is not None and not blocked:
                await _close(connection, config)
            elif connection is not None:  # it would not hear a goodbye
                connection.abort(ConnectionLost(f"{endpoint.node}: closed by us"))
    assert error is not None  # noqa: S101  # the settings have one URL or more
    raise error


async def _knock(connection: Connection, told: asyncio.Event, limit: float) -> None:
    """RabbitMQ tells a connection of an alarm with its first message, and reads nothing after it. So here is one, the
    last word of the look, that no queue can get: the default exchange leads to a queue of the key's name alone.
    """
    message = commands.Basic.Publish(exchange="", routing_key=f"mlproducer-{secrets.token_hex(8)}")
    channel = await connection.for_question()
    try:
        await channel.call(commands.Channel.Open(), commands.Channel.OpenOk)
        channel.send(message, header.ContentHeader(0, 0, commands.Basic.Properties()))
        answers = {heard(asyncio.ensure_future(channel.close())), asyncio.ensure_future(told.wait())}
        _, open_ones = await asyncio.wait(answers, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        for each in open_ones:
            each.cancel()
    except ChannelClosed:
        pass
    finally:
        connection.release(channel)


async def _close(connection: Connection, config: AmqpConfig) -> None:
    """With a goodbye: else the broker's log warns of a client that left without one."""
    with contextlib.suppress(TimeoutError, BrokerError, ChannelClosed):
        async with asyncio.timeout(config.check_timeout):
            await connection.close()
    connection.abort(ConnectionLost(f"{connection.endpoint.node}: closed by us"))


def _ignored(*_: object) -> None:
    """Whatever happens to the connection is an error of the look itself."""


async def _login(config: AmqpConfig, given: Credentials) -> Credentials:
    return given if config.get_credentials is None else await config.get_credentials()


async def _look(connection: Connection, config: AmqpConfig, *, compare: bool) -> BrokerFacts:
    missing = await refusal(connection, is_there(config.exchange))
    problem = "" if missing is None else plain(missing)
    if missing is None and config.declare and compare:
        declare = commands.Exchange.Declare(exchange=config.exchange, exchange_type=EXCHANGE_TYPE, durable=True)
        differs = await refusal(connection, declare)
        problem = "" if differs is None else plain(differs)
    looks = [_queue(connection, plan, declare=config.declare, compare=compare) for plan in config.queues]
    queues = await asyncio.gather(*looks)
    return BrokerFacts(
        node=connection.endpoint.node,
        product=str(connection.server.get("product", "")),
        version=str(connection.server.get("version", "")),
        frame_max=connection.frame_max,
        exchange_exists=missing is None,
        exchange_problem=problem,
        queues=tuple(queues),
    )


async def _queue(connection: Connection, plan: QueuePlan, *, declare: bool, compare: bool) -> FoundQueue:
    name, ours = plan.name, declare and plan.declare
    made = plan.words if ours else ""
    found = await look(connection, name)
    if isinstance(found, ChannelClosed):
        exists = found.code != faults.NOT_FOUND
        return FoundQueue(name, exists, differs=plain(found) if exists else "", made=made, named=plan.at_start)
    different = await refusal(connection, declaration(plan)) if ours and compare else None
    return FoundQueue(
        name,
        exists=True,
        messages=found.messages,
        consumers=found.consumers,
        differs="" if different is None else plain(different),
        made=made,
        named=plan.at_start,
    )


def plain(refused: ChannelClosed) -> str:
    """A refusal in plain words; the broker's own where there are none."""
    if refused.code == faults.ACCESS_REFUSED:
        return "this user may not look at it or configure it"
    told = _INEQUIVALENT.search(refused.text)
    if told is None:
        return str(refused)
    return f"its {told['name']} is {_value(told['theirs'])}, and we would make it with {_value(told['ours'])}"


def _value(text: str) -> str:
    quoted = _QUOTED.search(text)
    return "not set" if quoted is None else quoted[1]
