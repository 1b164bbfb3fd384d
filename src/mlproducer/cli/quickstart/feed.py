"""Publishes the shares through the service, and follows each task until the worker has done it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from mlproducer.cli.output import percentile
from mlproducer.cli.quickstart.client import CallFailed, Client
from mlproducer.cli.quickstart.results import Results

AT_ONCE: Final = 8
"""Shares under way at once: enough to show that order does not matter, few enough to watch."""
STALL: Final = 30.0
"""Seconds without any progress after which we stop waiting."""
_POLL: Final = 0.05
_ASK_AGAIN: Final = 0.5
"""Seconds between two questions after the same spooled tasks."""


@dataclass(slots=True)
class Story:
    """What is known of the run. Times are seconds."""

    shares: int
    began: float = field(default_factory=time.time)
    """Unix time."""
    published: int = 0
    """Shares that the service answered, well or badly."""
    types: dict[str, str] = field(default_factory=dict)
    """Task type of each accepted task id."""
    known: set[str] = field(default_factory=set)
    """Those of an earlier run: the same share is the same task, and is not published again."""
    confirmed: dict[str, float] = field(default_factory=dict)
    """From accept to confirm."""
    processed: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    """Why, for each share that the service refused."""

    @property
    def accepted(self) -> int:
        return len(self.types)

    @property
    def settled(self) -> bool:
        """Every share is published, and the worker is through with every task."""
        done = len(self.processed) + len(self.failed)
        return self.published == self.shares and done >= self.accepted and len(self.confirmed) >= self.accepted

    @property
    def complete(self) -> bool:
        """Every share was accepted, and all its tasks were confirmed and done."""
        return self.settled and not self.refused and not self.failed and self.accepted > 0

    def latency(self, share: float) -> float | None:
        """The percentile of accept → confirm, in seconds, of this run's tasks."""
        return percentile([span for task_id, span in self.confirmed.items() if task_id not in self.known], share)

    def answered(self, answer: dict[str, Any]) -> None:
        """A share's receipts."""
        self.published += 1
        for receipt in answer["receipts"]:
            self.types[receipt["task_id"]] = receipt["task_type"]
            if receipt["accepted_at"] < self.began:
                self.known.add(receipt["task_id"])
            self.receipt(receipt)

    def receipt(self, receipt: dict[str, Any]) -> None:
        if receipt["confirmed_at"] is not None:
            self.confirmed[receipt["task_id"]] = max(0.0, receipt["confirmed_at"] - receipt["accepted_at"])

    def result(self, task_id: str, *, done: bool) -> None:
        """What the worker noted of one of our tasks."""
        (self.processed if done else self.failed).add(task_id)
        if done:  # a task that failed and was delivered again may succeed
            self.failed.discard(task_id)


def publish_and_follow(
    client: Client, shares: Sequence[bytes], results: Results, show: Callable[[Story], None], check: Callable[[], None]
) -> Story:
    """Until all is done, or nothing has moved for `STALL` seconds.

    `show` is told the story as it grows; `check` raises when a program that we need has ended.
    """
    story = Story(len(shares))
    earlier, noted = dict(results.earlier()), dict[str, bool]()
    moved = asked = time.monotonic()
    before = 0
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="shares") as pool:
        waiting = {pool.submit(client.post, "/api/shares", share) for share in shares}
        try:
            while not story.settled and time.monotonic() - moved < STALL:
                waiting = _collect(waiting, story)
                noted.update(results.fresh())
                for task_id in story.known & earlier.keys():
                    story.result(task_id, done=earlier.pop(task_id))
                for task_id in story.types.keys() & noted.keys():
                    story.result(task_id, done=noted.pop(task_id))
                if time.monotonic() - asked > _ASK_AGAIN:
                    _ask(client, story)
                    asked = time.monotonic()
                now = story.published + len(story.confirmed) + len(story.processed) + len(story.failed)
                if now != before:
                    before, moved = now, time.monotonic()
                show(story)
                check()
                time.sleep(_POLL)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return story


def _collect(waiting: set[Future[Any]], story: Story) -> set[Future[Any]]:
    done = {future for future in waiting if future.done()}
    for future in done:
        try:
            story.answered(future.result())
        except CallFailed as exc:
            story.published += 1
            story.refused.append(str(exc))
    return waiting - done


def _ask(client: Client, story: Story) -> None:
    """After the tasks that were spooled: has the drain got them confirmed?"""
    for task_id in story.types.keys() - story.confirmed.keys():
        story.receipt(client.get(f"/api/ml/tasks/{task_id}"))
