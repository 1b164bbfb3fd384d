"""The confirm ledger of one publishing channel.

RabbitMQ numbers the publishes of a channel 1, 2, 3 … and answers each tag exactly once, by ack or nack, alone or with
`multiple` (this tag and all outstanding ones below it). A mandatory message that reached no queue comes back by
basic.return *before* its ack. So a tag's life is

    event      outstanding             outstanding, returned       late                          anything else
    returned   marked                  marked                      marked                        ignored (False)
    ack        Confirmed               Returned(code, text)        Confirmed, or as marked       –
    nack       Nacked                  Nacked                      Nacked                        –
    expire     Unsure(confirm_timeout) the same; both → late       its window over: nothing more –
    lose       the outcome given       the outcome given           the outcome given             –

and each tag is settled once. A nack wins over a return: the broker did not take the message, whatever it said before.
An ack for a tag that was never handed out means that we and the broker disagree about the count: `ProtocolViolation`,
and nothing changes.

**Late** is a tag whose deadline is over and whose answer may still come. Its attempt was settled as `Unsure`, with a
`LateAnswer` that is told how it ended after all. That can be no other attempt's answer: tags are never used again
within a channel. A late tag is listened for during a window, and of more than `MOST_LATE` the oldest is given up; its
`LateAnswer` is told of that by another `Unsure`. A channel with a late tag is retired by its shell, and closed when
nothing is outstanding and nothing is late any more.

Tags are handed out in order and an OrderedDict keeps that order, so a `multiple` ack pops from the front: O(acked),
never a scan. (A plain dict keeps the order too, but finds its front by stepping over every slot emptied before: one
`multiple` ack of 20,000 takes it ten times as long, and the factor grows with the window.)
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import Final, Generic, TypeVar

from mlproducer.outcome import Confirmed, LateAnswer, Nacked, Outcome, Returned, Unsure, UnsureCause

T = TypeVar("T")
Late = list[tuple[LateAnswer, Outcome]]
"""Whom to tell, and what."""

_CONFIRMED: Final = Confirmed()
_NACKED: Final = Nacked()
_NEVER: Final = Unsure(UnsureCause.CONFIRM_TIMEOUT, "no answer from the broker, nor a late one (ML_CONFIRM_CAP)")
MOST_LATE: Final = 10_000
"""Late tags that one channel listens for: two windows full."""
_SLACK: Final = 1_024
"""Deadlines of settled tags that may lie in the heap before it is swept, over as many again as are outstanding."""


class ProtocolViolation(Exception):
    """The broker answered for a tag that was never handed out."""

    def __init__(self, tag: int) -> None:
        super().__init__(f"the broker answered for delivery tag {tag}, which was never published")
        self.tag = tag


class ConfirmLedger(Generic[T]):
    """Outstanding publishes by delivery tag. `T` is what the shell keeps for each. `window`: for how many seconds after
    its deadline a tag may be answered late; 0 listens for none.
    """

    def __init__(self, window: float = 0.0) -> None:
        self._window = window
        self._entries: OrderedDict[int, tuple[T, float]] = OrderedDict()
        self._returned: dict[int, Returned] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._late: OrderedDict[int, tuple[LateAnswer, float]] = OrderedDict()
        """In the order of their expiry, so that the first is given up first."""
        self._late_tags: list[int] = []
        """A heap, for `multiple`."""
        self._last = 0

    @property
    def outstanding(self) -> int:
        return len(self._entries)

    @property
    def late(self) -> int:
        """Tags that may still be answered late."""
        return len(self._late)

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
        """Mark a tag as unroutable; its ack will tell of it as `Returned`. False if it is not outstanding, nor late."""
        if tag not in self._entries and tag not in self._late:
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

    def answered_late(self, tag: int, multiple: bool, *, taken: bool) -> Late:  # noqa: FBT001  # as above
        """What an ack (`taken`) or a nack says of late tags. Called after `ack` or `nack`, which check the tag."""
        heard: Late = []
        for each in self._late_up_to(tag or self._last) if multiple else [tag] if tag in self._late else []:
            answer, _ = self._late.pop(each)
            said = self._returned.pop(each, None)
            heard.append((answer, (said or _CONFIRMED) if taken else _NACKED))
        return heard

    def expire(self, now: float) -> list[tuple[T, Outcome]]:
        """Settle all whose deadline is at or before `now`; they are late from here on."""
        settled: list[tuple[T, Outcome]] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, tag = heapq.heappop(self._deadlines)
            found = self._entries.pop(tag, None)
            if found is not None:
                settled.append((found[0], self._unsure(tag, now)))
        return settled

    def _unsure(self, tag: int, now: float) -> Unsure:
        text, answer = "no confirm from the broker in time (ML_CONFIRM_TIMEOUT)", None
        if self._window:
            answer = LateAnswer(self._window)
            self._late[tag] = (answer, now + self._window)
            heapq.heappush(self._late_tags, tag)
        else:
            self._returned.pop(tag, None)
        return Unsure(UnsureCause.CONFIRM_TIMEOUT, text, late=answer)

    def give_up(self, now: float) -> Late:
        """The late ones whose window is over at `now`, and the oldest of more than may be listened for."""
        over: Late = []
        while self._late:
            tag, (answer, until) = next(iter(self._late.items()))
            if until > now and len(self._late) <= MOST_LATE:
                break
            del self._late[tag]
            self._returned.pop(tag, None)
            over.append((answer, _NEVER))
        if not self._late:
            self._late_tags.clear()
        return over

    def lose(self, outcome: Outcome) -> list[tuple[T, Outcome]]:
        """Settle all that is outstanding with one outcome: the channel or the connection is gone."""
        settled: list[tuple[T, Outcome]] = [(entry, outcome) for entry, _ in self._entries.values()]
        self._entries.clear()
        self._returned.clear()
        self._deadlines.clear()
        return settled

    def lose_late(self, outcome: Outcome) -> Late:
        """The same for what is late."""
        heard: Late = [(answer, outcome) for answer, _ in self._late.values()]
        self._late.clear()
        self._late_tags.clear()
        return heard

    def next_deadline(self) -> float | None:
        """The earliest moment at which `expire` or `give_up` has something to do; None if there is none."""
        # Settled tags are dropped here, from the front only: each is pushed once and popped once.
        while self._deadlines and self._deadlines[0][1] not in self._entries:
            heapq.heappop(self._deadlines)
        earliest = self._deadlines[0][0] if self._deadlines else None
        if not self._late:
            return earliest
        until = next(iter(self._late.values()))[1]
        return until if earliest is None else min(earliest, until)

    def _late_up_to(self, tag: int) -> list[int]:
        tags: list[int] = []
        while self._late_tags and self._late_tags[0] <= tag:
            each = heapq.heappop(self._late_tags)
            if each in self._late:
                tags.append(each)
        return tags

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
