"""Scenario: routes that stay broken past the patience. Three attempts, the dead letter queue, and back by replay."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Final

from mlproducer.reliability.judge import Judge
from mlproducer.reliability.reader import Reader
from mlproducer.reliability.stage import Stage, Trial, until, whole
from mlproducer.rows import DeadFilter

SETTINGS: Final[Mapping[str, float]] = {
    "ml_retry_first": 0.1,
    "ml_retry_cap": 0.4,
    "ml_drain_poll": 0.1,
    "ml_route_patience": 1.0,
}
ROOM: Final = 5
"""Messages that the full queue takes."""
_UNROUTABLE: Final = "ml.embed"
_FULL: Final = "ml.summarize"


async def message_retry(stage: Stage) -> None:
    """One queue is missing, another is full, for longer than the patience: tasks are retried, die, and are replayed."""
    book, few = stage.book, stage.scale.few
    # A producer that may declare would make the missing queue, once a task was returned.
    settings = stage.settings(ml_declare_topology=False, **SETTINGS)
    await whole(lambda: _fill(stage.url, settings.ml_exchange))
    async with stage.trial(settings) as trial:
        book.step(f"{few} tasks for a queue that does not exist, {few} for one that is full")
        await trial.burst(few, "embed_vectors")
        await trial.burst(few, "summarize_llm")
        book.step(f"past the patience each fault spends one of {settings.ml_retry_attempts} attempts; then they die")
        dead = await _all_settled(stage)
        reasons, attempts = await _letters(trial)
        book.step("the missing queue is made again, the full one is emptied")
        await whole(lambda: _mend(stage.url, settings.ml_exchange, stage.judge))
        book.step(f"{len(dead)} dead letters are replayed")
        began = time.monotonic()
        back = await replay(trial, dead)
        book.time_to_recover = await stage.drained(trial) - began
        left = stage.judge.dead()
        await trial.is_whole()
    how = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    book.saw(f"{len(dead)} tasks went to the dead letter queue: {how}", ok={"returned", "nacked"} <= reasons.keys())
    book.saw(
        f"each had spent {settings.ml_retry_attempts} attempts, no more and no fewer",
        ok=attempts == {settings.ml_retry_attempts},
        instead=f"they had spent {sorted(attempts)} attempts, not {settings.ml_retry_attempts}",
    )
    book.saw(
        f"{back} came back by replay and were published",
        ok=back == len(dead) and not left,
        instead=f"of {len(dead)} dead letters {back} were replayed, and {len(left)} are dead again",
    )


async def replay(trial: Trial, task_ids: frozenset[str]) -> int:
    """Dead letters back into the retry queue; how many were found."""
    return await trial.producer.replay(sorted(task_ids), by="mlproducer reliability")


async def _letters(trial: Trial) -> tuple[Counter[str], set[int]]:
    """How many died of each reason, and the numbers of attempts that they had spent."""
    letters = await trial.producer.dead_letters(DeadFilter(), limit=100_000)
    return Counter(letter.reason for letter in letters), {letter.attempts for letter in letters}


async def _all_settled(stage: Stage) -> frozenset[str]:
    """Wait until every task is confirmed or dead; the dead ones."""

    def is_so() -> bool:
        stage.book.tick()
        return not stage.ledger.accepted - stage.ledger.confirmed - stage.judge.dead()

    await until(is_so, "every task to be confirmed or dead")
    return stage.judge.dead()


def _fill(url: str, exchange: str) -> None:
    with Reader(url) as admin:
        admin.make_full_queue(_FULL, exchange, ROOM)


def _mend(url: str, exchange: str, judge: Judge) -> None:
    """What the full queue holds is delivered. One without that limit takes its place, and the missing one is made."""
    judge.take()
    with Reader(url) as admin:
        admin.delete(_FULL)
        for queue in (_FULL, _UNROUTABLE):
            admin.make_queue(queue, exchange)
