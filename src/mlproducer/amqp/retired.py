"""Publishing channels that take nothing new: what is in flight on them keeps its time, and is listened for after it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from mlproducer.amqp.connection import Connection
from mlproducer.amqp.faults import ChannelClosed
from mlproducer.amqp.publishing import PublishingChannel

MOST_RETIRED: Final = 8
"""Channels that are kept open for late answers: as many timeouts, one after the other, as answers are listened for."""


class Retired:
    """Those of one link, until nothing of them may be answered any more. `release` closes one."""

    def __init__(self, release: Callable[[PublishingChannel], None]) -> None:
        self._release = release
        self._channels: dict[PublishingChannel, None] = {}
        """The oldest first."""

    @property
    def in_flight(self) -> int:
        return sum(channel.in_flight for channel in self._channels)

    @property
    def bytes_in_flight(self) -> int:
        return sum(channel.bytes_in_flight for channel in self._channels)

    def add(self, channel: PublishingChannel, connection: Connection | None) -> None:
        """A broker that is late for long would have us keep ever more channels. The oldest listens no more."""
        channel.retired = True
        self._channels[channel] = None
        room = MOST_RETIRED if connection is None else connection.room_for(MOST_RETIRED)
        quiet = [each for each in self._channels if not each.in_flight and each is not channel]
        for each in quiet[: max(0, len(self._channels) - room)]:
            each.give_up()

    def emptied(self, channel: PublishingChannel) -> None:
        self.forget(channel)
        self._release(channel)

    def forget(self, channel: PublishingChannel) -> None:
        self._channels.pop(channel, None)

    def clear(self) -> None:
        self._channels.clear()

    async def make_room(self, connection: Connection) -> None:
        """For one more channel, on a connection that may have few: then one that is retired is not waited for."""
        for channel in list(self._channels):
            if connection.spare:
                return
            with contextlib.suppress(ChannelClosed):
                await channel.close()  # what is still on it is unsure
            self.emptied(channel)
        await connection.room()
