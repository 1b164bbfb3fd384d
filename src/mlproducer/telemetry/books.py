"""What it takes to see from outside that no accepted task is missing, and how full the spool is.

Every task that this producer accepts is confirmed, waits in the spool, is a dead letter, or was purged by a person. So

    at start + accepted − confirmed − purged = in the spool + dead

holds from the first scrape on, whatever a former process did: `at start` is what the spool held then. A task in flight
has no term: on its first attempt it is not accepted yet, and on any later one it is still in the spool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from mlproducer.events import SpoolMeasured, TasksPurged
from mlproducer.telemetry.cells import Board


@dataclass(frozen=True, slots=True)
class SpoolFacts:
    """Of the spool that the metrics are about: its kind, and its limits. `max_age` in seconds; infinite: no limit."""

    store: str = "memory"
    shared: bool = False
    """Other producers may use it too; then only the sum over all of them adds up."""
    spool: str = ""
    """The same for all producers that share it. Tells neither address nor password."""
    max_tasks: float = inf
    max_bytes: float = inf
    max_age: float = inf
    may_be_shared: bool = False
    """It is one's own until another process is met there."""


class BookMetrics:
    """`owed` gives what this process accepted, less what it confirmed: below 0 where it drained others' tasks.

    Where several processes count together, each has its own series of all but `spool_info`, as those of the sizes are:
    rules compare them label by label. So has `tasks_at_start`: counts of processes that ended stay while their gauges
    go, and the sum over those that live would lack what the others started with. Nothing is said to be missing there,
    rather than wrongly.
    """

    def __init__(self, board: Board, facts: SpoolFacts, owed: Callable[[], float]) -> None:
        self._owed = owed
        self._measured = False
        self._info = board.gauges(
            "spool_info",
            "1 for what it is: whether other producers use the spool too, or did since this one started.",
            merge="max",
            store=(facts.store,),
            shared=("false", "true") if facts.may_be_shared else (_label(facts.shared),),
            spool=(facts.spool,),
        )
        self._share(shared=facts.shared)
        for name, words, limit in (
            ("max_tasks", "Tasks in the spool above which new ones are refused.", facts.max_tasks),
            ("max_bytes", "Bytes in the spool above which new tasks are refused.", facts.max_bytes),
            ("max_age_seconds", "Age of the oldest task above which new ones are refused.", facts.max_age),
        ):
            board.gauge(f"retry_queue_{name}", words).set(limit)
        self._overdue = board.gauge(
            "retry_queue_overdue_seconds",
            "Since the first task in the spool that nobody is publishing became due; 0 if none is.",
        )
        self._at_start = board.gauge(
            "tasks_at_start", "Tasks in the spool and dead letters, when this producer started."
        )
        self._purged = board.counter(
            "tasks_purged",
            "Dead letters that somebody removed for good since this producer started, here or elsewhere.",
        )

    def measured(self, event: SpoolMeasured) -> None:
        self._overdue.set(event.overdue)
        if event.met_others:
            self._share(shared=True)
        if not self._measured:
            # The first comes before the first task, unless the spool could not be read then.
            self._measured = True
            self._at_start.set(event.tasks + event.dead - self._owed())

    def purged(self, event: TasksPurged) -> None:
        self._purged.inc(event.count)

    def _share(self, *, shared: bool) -> None:
        for (_, label, _), number in self._info.items():
            number.set(label == _label(shared))


def _label(shared: bool) -> str:  # noqa: FBT001  # it is the value itself
    return str(shared).lower()
