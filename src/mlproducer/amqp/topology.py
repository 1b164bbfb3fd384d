"""The exchange, queues and bindings: make what is used and missing, never change what is there, say what differs.

What is used: the queues that the settings name, from the first connect on, and any other from its first task on. The
exchange is used with the first queue. At each connect what was used is looked at again, and so made again if it is
gone. Nobody who only looks comes here.

Each step has a channel of its own, because the broker answers a difference by closing the channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from pamqp import commands
from pamqp.common import FieldTable

from mlproducer.amqp import faults
from mlproducer.amqp.channel import Channel
from mlproducer.amqp.config import AmqpConfig
from mlproducer.amqp.connection import Connection
from mlproducer.amqp.faults import ChannelClosed
from mlproducer.envelope.queues import Arguments, QueuePlan
from mlproducer.errors import BrokerRefused, ErrorType
from mlproducer.events import TopologyDiffers
from mlproducer.ports import Listener

EXCHANGE_TYPE: Final = "topic"

Step = Callable[[Channel], Awaitable[object]]


class Topology:
    """Of one broker, over its links. `tell` hears of each difference once; publishing goes on all the same."""

    def __init__(self, config: AmqpConfig, tell: Listener) -> None:
        self._config = config
        self._tell = tell
        self._plans = {plan.name: plan for plan in config.queues}
        self._used = {plan.name: None for plan in config.queues if plan.at_start}
        self._missing: set[str] = set()
        """Queues that were used and not there."""
        self._absent: set[str] = set()
        """Queues that nobody used and that were not there: not asked for again, since the broker logs each question."""
        self._exchange_seen = False
        self._exchange_turn = asyncio.Lock()
        self._differences: dict[str, TopologyDiffers] = {}
        self._told: set[TopologyDiffers] = set()

    @property
    def differences(self) -> tuple[TopologyDiffers, ...]:
        return tuple(self._differences.values())

    @property
    def exchange_seen(self) -> bool:
        """It was there, on this link."""
        return self._exchange_seen

    async def verify(self, connection: Connection) -> set[str]:
        """All that was used, on a link that is new or from which something vanished; its queues. Raises: as `use`."""
        self._absent.clear()
        self._exchange_seen = False
        used = tuple(self._used)
        if used or not self._config.declare:
            await self._see_exchange(connection)
        for queue in used:
            await self._see_queue(connection, queue)
        return set(used)

    async def use(self, connection: Connection, queue: str) -> None:
        """A task is about to go there.

        Raises: BrokerRefused, if there is no exchange and none can be made; BrokerError, if the connection ends.
        """
        self._used[queue] = None
        self._absent.discard(queue)
        async with self._exchange_turn:  # the first tasks of several routes come at once
            if not self._exchange_seen:
                await self._see_exchange(connection)
        await self._see_queue(connection, queue)

    async def depths(self, connection: Connection, found: dict[str, int]) -> None:
        """Ready messages by queue, of those that are there, into `found` one by one."""
        for queue in {**self._plans, **self._used}.keys() - self._absent:
            size = await depth(connection, queue)
            if size is not None:
                found[queue] = size
                if queue in self._missing:  # somebody made it meanwhile: a worker, or a person
                    self._missing.discard(queue)
                    self._differences.pop(queue, None)
            elif queue not in self._used:
                self._absent.add(queue)

    async def _see_exchange(self, connection: Connection) -> None:
        name = self._config.exchange
        self._differences.pop(name, None)
        if self._config.declare:
            declare = commands.Exchange.Declare(exchange=name, exchange_type=EXCHANGE_TYPE, durable=True)
            refused = await refusal(connection, lambda channel: channel.call(declare, commands.Exchange.DeclareOk))
            if refused is None:
                self._exchange_seen = True
                return
            self._differs(name, "the exchange is not the durable topic exchange that we would make", refused)
        missing = await refusal(connection, lambda channel: exchange_is_there(channel, name))
        if missing is not None:
            raise BrokerRefused(
                f"{connection.endpoint.node}: there is no exchange {name} ({missing}): see ML_EXCHANGE, and "
                "ML_DECLARE_TOPOLOGY or the user's permission to configure it",
                error_type=ErrorType.TOPOLOGY,
            )
        self._exchange_seen = True

    async def _see_queue(self, connection: Connection, queue: str) -> None:
        # A row of the spool may lead to a queue that no task type leads to any more: how to make it is not known.
        plan = self._plans.get(queue, QueuePlan(queue, declare=False))
        self._differences.pop(queue, None)
        self._missing.discard(queue)
        ours = self._config.declare and plan.declare
        declare = declaration(plan) if ours else commands.Queue.Declare(queue=queue, passive=True)
        refused = await refusal(connection, lambda channel: channel.call(declare, commands.Queue.DeclareOk))
        if refused is not None:
            self._differs(queue, f"it is not the {plan.words} that we would make, and is used as it is", refused)
        if ours:
            bind = commands.Queue.Bind(queue=queue, exchange=self._config.exchange, routing_key=queue)
            refused = await refusal(connection, lambda channel: channel.call(bind, commands.Queue.BindOk))
            if refused is not None:
                why = f"the queue could not be bound to {self._config.exchange} by its name"
                self._differs(queue, why, refused, broken=True)

    def _differs(self, name: str, what: str, refused: ChannelClosed, *, broken: bool = False) -> None:
        """In plain words, by the code of the refusal."""
        match refused.code:
            case faults.ACCESS_REFUSED:
                why = "this user may not configure it, so whether it is as we would make it is not known"
            case faults.NOT_FOUND:
                why, broken = "it is not there", True
                self._missing.add(name)
            case _:
                why = what
        differs = TopologyDiffers(name, f"{why}. The broker says: {refused}. Publishing goes on", broken)
        self._differences[name] = differs
        if differs not in self._told:  # once, not at every reconnect
            self._told.add(differs)
            self._tell(differs)


def declaration(plan: QueuePlan) -> commands.Queue.Declare:
    return commands.Queue.Declare(queue=plan.name, durable=True, arguments=_table(plan.arguments))


def _table(arguments: Arguments) -> FieldTable:
    return dict(arguments)


async def exchange_is_there(channel: Channel, name: str) -> None:
    """A passive declare. Raises: ChannelClosed with 404 if it is not."""
    declare = commands.Exchange.Declare(exchange=name, passive=True)
    await channel.call(declare, commands.Exchange.DeclareOk)


async def nothing(_channel: Channel) -> None:
    """The step that is none: whether a channel can be opened."""


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
