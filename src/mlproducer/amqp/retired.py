"""Publishing channels that take nothing new: what is in flight on them keeps its time, and is listened for after it."""

from __future__ import annotations

from mlproducer.amqp.publishing import PublishingChannel


class Retired:
    """Those of one link, until nothing of them may be answered any more. The oldest come first."""

    def __init__(self) -> None:
        self._channels: dict[PublishingChannel, None] = {}

    @property
    def in_flight(self) -> int:
        return sum(channel.in_flight for channel in self._channels)

    @property
    def bytes_in_flight(self) -> int:
        return sum(channel.bytes_in_flight for channel in self._channels)

    def all(self) -> list[PublishingChannel]:
        return list(self._channels)

    def add(self, channel: PublishingChannel, room: int) -> None:
        """A broker that is late for long would have us keep ever more of them. Beyond `room` the oldest that have
        nothing in flight listen no more.
        """
        channel.retired = True
        self._channels[channel] = None
        calm = [each for each in self._channels if not each.in_flight and each is not channel]
        for each in calm[: max(0, len(self._channels) - room)]:
            each.give_up()

    def drop(self, channel: PublishingChannel) -> None:
        self._channels.pop(channel, None)

    def clear(self) -> None:
        self._channels.clear()
