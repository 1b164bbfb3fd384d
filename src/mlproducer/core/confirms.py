"""The confirm ledger of one publishing channel.

RabbitMQ numbers the publishes of a channel 1, 2, 3 … and answers each tag exactly once, by ack or nack, alone or with
`multiple` (this tag and all outstanding ones below it). A mandatory message that reached no queue comes back by
basic.return *before* its ack. So a tag's life is

    event      outstanding             outstanding, returned       not outstanding
    returned   marked                  marked                      ignored (False)
    ack        Confirmed               Returned(code, text)        settles nothing
    nack       Nacked                  Nacked                      settles nothing
    expire     Unsure(confirm_timeout) Unsure(confirm_timeout)     –
    lose       the outcome given       the outcome given           –

and each tag is settled once. A nack wins over a return: the broker did not take the message, whatever it said before.
A late ack, for a tag that expired, settles nothing: tags are never used again within a channel, and a channel with an
expired tag is retired by its shell. An ack for a tag that was never handed out means that we and the broker disagree
about the count: `ProtocolViolation`, and nothing changes.

Tags are handed out in order and an OrderedDict keeps that order, so a `multiple` ack pops from the front: O(acked),
never a scan. (A plain dict keeps the order too, but finds its front by stepping over every slot emptied before: one
`multiple` ack of 20,000 takes it ten times as long, and the factor grows with the window.)
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import Final, Generic, TypeVar

from mlproducer.outcome import Confirmed, Nacked, Outcome, Returned, Unsure, UnsureCause

T = TypeVar("T")

_CONFIRMED: Final = Confirmed()
_NACKED: Final = Nacked()
_SLACK: Final = 1_024
"""Deadlines of settled tags that may lie in the heap before it is swept, over as many again as are outstanding."""


class ProtocolViolation(Exception):
    """The broker answered for a tag that was never handed out."""

    def __init__(self, tag: int) -> None:
        super().__init__(f"the broker answered for delivery tag {tag}, which was never published")
        self.tag = tag


class ConfirmLedger(Generic[T]):
    """Outstanding publishes by delivery tag. `T` is what the shell keeps for each."""

    def __init__(self) -> None:
        self._entries: OrderedDict[int, tuple[T, float]] = OrderedDict()
        self._returned: dict[int, Returned] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._last = 0

    @property
    def outstanding(self) -> int:
        return len(self._entries)

    @property
    def next_tag(self) -> int:
        """What `add` will give."""
        return self._last + 1

    def add(self, entry: T, deadline: float) -> int:
        """Note a publish and give its tag. `deadline` is on whatever clock `expire` is asked with."""
        self._last = tag = self._last + 1
        self._entries[tag] = (entry, deadline)
        # Deadlines mostly rise with the tags, and then a push onto the heap costs one comparison.
        heapq.heappush(self._deadlines, (deadline, tag))
        if len(self._deadlines) > 2 * len(self._entries) + _SLACK:
            self._sweep()
        return tag

    def returned(self, tag: int, code: int, text: str) -> bool:
        """Mark a tag as unroutable; its ack will settle it as `Returned`. False if it is not outstanding."""
        if tag not in self._entries:
            return False
        self._returned[tag] = Returned(code, text)
        return True

    def ack(self, tag: int, multiple: bool) -> list[tuple[T, Outcome]]:  # noqa: FBT001  # the protocol's own flag
        """Raises: ProtocolViolation."""
        returned = self._returned
        settled: list[tuple[T, Outcome]] = []
        for each, entry in self._take(tag, multiple):
            outcome: Outcome = returned.pop(each, _CONFIRMED) if returned else _CONFIRMED
            settled.append((entry, outcome))
        return settled

    def nack(self, tag: int, multiple: bool) -> list[tuple[T, Outcome]]:  # noqa: FBT001  # the protocol's own flag
        """Raises: ProtocolViolation."""
        settled: list[tuple[T, Outcome]] = []
        for each, entry in self._take(tag, multiple):
            self._returned.pop(each, None)
            settled.append((entry, _NACKED))
        return settled

    def expire(self, now: float) -> list[tuple[T, Outcome]]:
        """Settle all whose deadline is at or before `now`."""
        settled: list[tuple[T, Outcome]] = []
        unsure = Unsure(UnsureCause.CONFIRM_TIMEOUT, "no confirm from the broker in time (ML_CONFIRM_TIMEOUT)")
        while self._deadlines and self._deadlines[0][0] <= now:
            _, tag = heapq.heappop(self._deadlines)
            found = self._entries.pop(tag, None)
            if found is not None:
                self._returned.pop(tag, None)
                settled.append((found[0], unsure))
        return settled

    def lose(self, outcome: Outcome) -> list[tuple[T, Outcome]]:
        """Settle all that is outstanding with one outcome: the channel or the connection is gone."""
        settled: list[tuple[T, Outcome]] = [(entry, outcome) for entry, _ in self._entries.values()]
        self._entries.clear()
        self._returned.clear()
        self._deadlines.clear()
        return settled

    def next_deadline(self) -> float | None:
        """The earliest deadline of what is outstanding; None if nothing is."""
        # Settled tags are dropped here, from the front only: each is pushed once and popped once.
        while self._deadlines and self._deadlines[0][1] not in self._entries:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def _sweep(self) -> None:
        # A settled tag's deadline leaves the heap by itself only at the front, that is when its time comes: with 300 s
        # and 20,000 publishes a second six million would lie here. At least half goes each time: O(1) a publish.
        self._deadlines = [(deadline, tag) for tag, (_, deadline) in self._entries.items()]
        heapq.heapify(self._deadlines)

    def _take(self, tag: int, multiple: bool) -> list[tuple[int, T]]:  # noqa: FBT001  # the protocol's own flag
        if tag > self._last or (tag == 0 and not multiple):
            raise ProtocolViolation(tag)
        entries = self._entries
        if not multiple:
            found = entries.pop(tag, None)
            return [] if found is None else [(tag, found[0])]
        up_to = tag or self._last  # AMQP 0-9-1 §1.8.3.13: tag 0 with multiple is all outstanding
        taken: list[tuple[int, T]] = []
        while entries:
            first = next(iter(entries))
            if first > up_to:
                break
            taken.append((first, entries.pop(first)[0]))
        return taken
