"""Scenario: a broker whose answers come late, all of them, for as long as it takes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Final

from mlproducer.events import AnsweredLate, AttemptSettled, ConfirmWaitChanged, TaskDeadLettered
from mlproducer.outcome import NotSent
from mlproducer.reliability.silence import Relay
from mlproducer.reliability.stage import Stage

SETTINGS: Final[Mapping[str, float]] = {"ml_confirm_timeout": 1.0}
TIMES: Final = (1.4, 2.0, 3.0)
"""How late, in confirm timeouts."""


async def late_confirms(stage: Stage) -> None:
    """A relay brings what the broker says 1.4, 2 and 3 confirm timeouts late; callers publish all the while."""
    book, few = stage.book, stage.scale.few
    async with Relay.to(stage.url) as relay:
        settings = stage.settings(rabbitmq_url=relay.url(stage.url), **SETTINGS)
        async with stage.trial(settings) as trial:
            await trial.burst(1)  # the queue is made before anything is late
            began = time.monotonic()
            for times in TIMES:
                book.step(f"each answer comes {times} x the confirm timeout late; {2 * few} calls, in two bursts")
                relay.late = times * settings.ml_confirm_timeout
                await trial.burst(few)
                await trial.burst(few)
                await stage.drained(trial)
            book.step("the broker is quick again")
            relay.late = 0.0
            back = time.monotonic()
            await trial.burst(few)
            book.time_to_recover = await stage.drained(trial) - back
            await trial.is_whole()
    heard = len(trial.told(AnsweredLate, began))
    book.saw(f"{heard} answers came after their attempt was given up as unsure", ok=heard > 0)
    unknown = len(stage.ledger.accepted) - len(stage.ledger.confirmed)
    book.saw("each task is known as confirmed", ok=unknown == 0, instead=f"{unknown} tasks are not known as confirmed")
    sent = Counter(
        event.task_id for event in trial.told(AttemptSettled, began) if not isinstance(event.outcome, NotSent)
    )
    most = max(sent.values(), default=0)
    book.saw(f"no task was sent more than {most} times", ok=most <= 2)  # noqa: PLR2004  # one duplicate
    dead = len(trial.told(TaskDeadLettered))
    book.saw("none is dead", ok=dead == 0, instead=f"{dead} tasks are dead, by no fault of theirs")
    grew = max((event.wait for event in trial.told(ConfirmWaitChanged, began) if event.late), default=0.0)
    book.saw(
        f"the wait for confirms grew to {grew:.1f} s",
        ok=grew > settings.ml_confirm_timeout,
        instead="the wait for confirms did not grow",
    )
