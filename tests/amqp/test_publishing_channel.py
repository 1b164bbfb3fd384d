"""A publishing channel without a wire: each attempt is settled once, nothing is counted that is not outstanding, and
the timer rings for the earliest deadline.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, header

from mlproducer.amqp.publishing import Hears, PublishingChannel
from mlproducer.errors import ConnectionLost
from mlproducer.jobs import Jobs
from mlproducer.outcome import Confirmed, NotSent, Outcome, Returned, Unsure
from mlproducer.task import Envelope
from mlproducer.testing.clock import ManualClock

PREFIX = "nonce-7-"
FOREIGN = ["other-7-", "nonce-6-", "", "nonce-7-x"]
"""Of another process, of an older channel of ours, of nobody, of nothing that we make."""


@dataclass(eq=False)
class Attempt:
    tag: int
    size: int
    deadline: float
    returned: bool = False
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def open(self) -> bool:
        return not self.outcomes


class Desk:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.errors: list[Exception] = []
        self.emptied = 0
        self.sent: list[Attempt] = []
        jobs = Jobs(self.errors.append)
        hears = Hears(lambda *_: None, self._emptied, lambda *_: None, lambda _: None, lambda: None, jobs)
        self.channel = PublishingChannel(
            1, lambda _: None, prefix=PREFIX, exchange="x", frame_max=4_096, clock=self.clock, jobs=jobs, hears=hears
        )

    def _emptied(self, _: PublishingChannel) -> None:
        self.emptied += 1

    def publish(self, size: int, seconds: float) -> None:
        attempt = Attempt(len(self.sent) + 1, size, self.clock.monotonic() + seconds)
        self.sent.append(attempt)
        envelope = Envelope(f"t{attempt.tag}", "embed_vectors", "ml.embed", b"\x00\x00", b"x" * (size - 2))
        self.channel.publish(envelope, attempt.outcomes.append, attempt.deadline)

    def outstanding(self) -> list[Attempt]:
        return [attempt for attempt in self.sent if attempt.open]

    def comes_back(self, message_id: str) -> None:
        self.channel.received(commands.Basic.Return(312, "NO_ROUTE", "x", "ml.embed"))
        self.channel.received(header.ContentHeader(0, 0, commands.Basic.Properties(message_id=message_id)))

    def check(self) -> None:
        left = self.outstanding()
        assert not self.errors
        assert all(len(attempt.outcomes) <= 1 for attempt in self.sent)
        assert (self.channel.in_flight, self.channel.bytes_in_flight) == (len(left), sum(each.size for each in left))
        if left:
            assert self.channel._timer is not None, "somebody waits for a deadline"
            assert self.channel._timer_at <= min(each.deadline for each in left)


def test_a_return_of_another_channel_marks_no_attempt_of_ours() -> None:
    async def scenario() -> None:
        for foreign in FOREIGN:
            desk = Desk()
            desk.publish(10, 5.0)
            desk.comes_back(f"{foreign}1")
            desk.channel.acked(1, False)
            assert desk.sent[0].outcomes == [Confirmed()], foreign

    asyncio.run(scenario())


@given(data=st.data())
def test_whatever_the_broker_says_each_attempt_is_settled_once_and_nothing_else_is_counted(data: st.DataObject) -> None:
    asyncio.run(_any_history(data))


async def _any_history(data: st.DataObject) -> None:
    desk = Desk()
    for _ in range(data.draw(st.integers(1, 20))):
        tag = data.draw(st.integers(1, max(1, len(desk.sent))))
        match data.draw(st.sampled_from(["publish", "publish", "answer", "return", "foreign", "time"])):
            case "publish":
                desk.publish(data.draw(st.integers(2, 9_000)), data.draw(st.sampled_from([0.5, 5.0, 60.0])))
            case "answer" if desk.sent:
                answer = desk.channel.acked if data.draw(st.booleans()) else desk.channel.nacked
                answer(tag, data.draw(st.booleans()))
            case "return" if desk.sent:
                desk.sent[tag - 1].returned |= desk.sent[tag - 1].open
                desk.comes_back(f"{PREFIX}{tag}")
            case "foreign":
                desk.comes_back(f"{data.draw(st.sampled_from(FOREIGN))}{tag}")
            case _:
                desk.clock.advance(data.draw(st.sampled_from([0.3, 4.0, 70.0])))
                desk.channel._ring()
                assert all(attempt.deadline > desk.clock.monotonic() for attempt in desk.outstanding())
        desk.check()
    desk.channel.retired = True
    left = bool(desk.outstanding())
    desk.channel.lost(ConnectionLost("cut"))
    desk.check()
    assert not desk.outstanding()
    assert desk.emptied == left, "who waits for it to be empty is told, if it was not"
    for attempt in desk.sent:
        (outcome,) = attempt.outcomes
        assert not isinstance(outcome, Returned) or attempt.returned, "what came back was of another"
        assert not isinstance(outcome, Confirmed) or not attempt.returned


async def test_an_attempt_after_the_end_or_past_its_deadline_is_not_sent_and_leaves_nothing() -> None:
    desk = Desk()
    desk.publish(10, 0.0)
    desk.channel.lost(ConnectionLost("cut"))
    desk.publish(10, 5.0)
    assert [type(attempt.outcomes[0]) for attempt in desk.sent] == [NotSent, NotSent]
    assert desk.channel.bytes_in_flight == 0
    assert not any(isinstance(attempt.outcomes[0], Unsure) for attempt in desk.sent)
