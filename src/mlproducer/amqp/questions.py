"""Questions to the broker about an exchange, a queue or a binding, each on a channel of its own.

The broker answers "no" by closing the channel, so nobody else may be on it. All of a question is written at once: the
opening of its channel, and its methods. So it takes one round trip, and many of them at the same time take one too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pamqp import base, commands

from mlproducer.amqp.connection import Connection
from mlproducer.amqp.faults import ChannelClosed

_ANSWERS: Final[dict[type[base.Frame], type[base.Frame]]] = {
    commands.Exchange.Declare: commands.Exchange.DeclareOk,
    commands.Queue.Declare: commands.Queue.DeclareOk,
    commands.Queue.Bind: commands.Queue.BindOk,
}


@dataclass(frozen=True, slots=True)
class Found:
    """A queue that is there: messages that are ready, and who reads it."""

    messages: int
    consumers: int


async def refusal(connection: Connection, *methods: base.Frame) -> ChannelClosed | None:
    """Ask all of it on one channel; the broker's refusal of one of them, or None. What comes after a refused one is not
    looked at. Raises: BrokerError, if the connection ends.
    """
    answered = await _asked(connection, *methods)
    return answered if isinstance(answered, ChannelClosed) else None


async def look(connection: Connection, queue: str) -> Found | ChannelClosed:
    """A passive declare: what the queue holds, or why the broker does not tell. Raises: BrokerError."""
    answered = await _asked(connection, commands.Queue.Declare(queue=queue, passive=True))
    if isinstance(answered, ChannelClosed):
        return answered
    assert isinstance(answered, commands.Queue.DeclareOk)  # noqa: S101  # checked where it was received
    return Found(answered.message_count or 0, answered.consumer_count or 0)


def is_there(exchange: str) -> base.Frame:
    """The question whether the exchange is there: one that is not is refused with 404."""
    return commands.Exchange.Declare(exchange=exchange, passive=True)


async def _asked(connection: Connection, *methods: base.Frame) -> base.Frame | ChannelClosed:
    """The last answer."""
    calls = [(method, _ANSWERS[type(method)]) for method in methods]
    channel = await connection.for_question()
    try:
        return await channel.ask((commands.Channel.Open(), commands.Channel.OpenOk), *calls)
    except ChannelClosed as why:
        return why
    finally:
        connection.release(channel)
