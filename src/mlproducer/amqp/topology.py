"""The exchange, queues and bindings: make what is missing, never change what is there, say what differs.

Each step has a channel of its own, because the broker answers a difference by closing the channel.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from pamqp import commands
from pamqp.common import FieldTable

from mlproducer.amqp import faults
from mlproducer.amqp.channel import Channel
from mlproducer.amqp.config import AmqpConfig
from mlproducer.amqp.connection import Connection
from mlproducer.amqp.faults import ChannelClosed
from mlproducer.errors import BrokerRefused, ErrorType
from mlproducer.events import TopologyDiffers

EXCHANGE_TYPE: Final = "topic"
DELIVERY_LIMIT: Final = 5
QUEUE_ARGUMENTS: Final[FieldTable] = {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT}

Step = Callable[[Channel], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Topology:
    """What was found to differ; publishing goes on all the same."""

    differences: tuple[TopologyDiffers, ...]


async def verify(connection: Connection, config: AmqpConfig) -> Topology:
    """Raises: BrokerRefused, if there is no exchange and none can be made; BrokerError."""
    found: list[TopologyDiffers] = []
    await _exchange(connection, config, found)
    for queue in config.queues:
        await _queue(connection, config, queue, found)
    return Topology(tuple(found))


async def _exchange(connection: Connection, config: AmqpConfig, found: list[TopologyDiffers]) -> None:
    name = config.exchange
    if config.declare:
        declare = commands.Exchange.Declare(exchange=name, exchange_type=EXCHANGE_TYPE, durable=True)
        refused = await refusal(connection, lambda channel: channel.call(declare, commands.Exchange.DeclareOk))
        if refused is None:
            return
        found.append(_differs(name, "the exchange is not the durable topic exchange that we would make", refused))
    missing = await refusal(connection, lambda channel: exchange_is_there(channel, name))
    if missing is not None:
        raise BrokerRefused(
            f"{connection.endpoint.node}: there is no exchange {name} ({missing}): see ML_EXCHANGE, and "
            "ML_DECLARE_TOPOLOGY or the user's permission to configure it",
            error_type=ErrorType.TOPOLOGY,
        )


async def _queue(connection: Connection, config: AmqpConfig, queue: str, found: list[TopologyDiffers]) -> None:
    declare = commands.Queue.Declare(
        queue=queue, durable=True, passive=not config.declare, arguments=dict(QUEUE_ARGUMENTS) if config.declare else {}
    )
    refused = await refusal(connection, lambda channel: channel.call(declare, commands.Queue.DeclareOk))
    if refused is not None:
        found.append(_differs(queue, "the queue is not the quorum queue that we would make", refused))
    if not config.declare:
        return
    bind = commands.Queue.Bind(queue=queue, exchange=config.exchange, routing_key=queue)
    refused = await refusal(connection, lambda channel: channel.call(bind, commands.Queue.BindOk))
    if refused is not None:
        why = f"the queue could not be bound to {config.exchange} by its name"
        found.append(_differs(queue, why, refused, broken=True))


def _differs(name: str, what: str, refused: ChannelClosed, *, broken: bool = False) -> TopologyDiffers:
    """In plain words, by the code of the refusal."""
    match refused.code:
        case faults.ACCESS_REFUSED:
            why = "this user may not configure it, so whether it is as we would make it is not known"
        case faults.NOT_FOUND:
            why, broken = "it is not there", True
        case _:
            why = what
    return TopologyDiffers(name, f"{why}. The broker says: {refused}. Publishing goes on", broken)


async def exchange_is_there(channel: Channel, name: str) -> None:
    """A passive declare. Raises: ChannelClosed with 404 if it is not."""
    declare = commands.Exchange.Declare(exchange=name, passive=True)
    await channel.call(declare, commands.Exchange.DeclareOk)


async def depth(connection: Connection, queue: str) -> int | None:
    """Ready messages of a queue; None if it is not there."""
    declare = commands.Queue.Declare(queue=queue, passive=True)
    counts: list[int] = []

    async def ask(channel: Channel) -> None:
        counts.append((await channel.call(declare, commands.Queue.DeclareOk)).message_count or 0)

    return counts[0] if await refusal(connection, ask) is None else None


async def refusal(connection: Connection, step: Step) -> ChannelClosed | None:
    """Run one step on a channel of its own; the broker's refusal of it, or None. Raises: BrokerError."""
    channel = connection.add(Channel)
    try:
        await channel.call(commands.Channel.Open(), commands.Channel.OpenOk)
        await step(channel)
        await channel.close()
    except ChannelClosed as why:
        return why
    finally:
        connection.release(channel)
    return None
