"""Metrics of what surrounds us in the process: the application's code that we call, and who reads our log."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from mlproducer.events import CallbackFailed, CallbackKind, CallbackSlow
from mlproducer.telemetry.cells import Board


class Surroundings:
    """`dropped_lines` is asked for the log lines that were dropped."""

    dropped_lines: Callable[[], int] | None = None

    def __init__(self, board: Board) -> None:
        errors = board.counters(
            "listener_errors",
            "Errors that the application's code raised when we called it. No task is touched by them.",
            callback=get_args(CallbackKind),
        )
        self._errors = {kind: number for (kind,), number in errors.items()}
        self._slow = board.counter(
            "listener_slow", "Events for which a listener took so long that the event loop stood still."
        )

        self._dropped = board.counter(
            "log_lines_dropped", "Log lines that were dropped, because who reads them was too slow or gone."
        )

    def look(self) -> None:
        """Before the numbers are read."""
        if self.dropped_lines is not None:
            self._dropped.set(self.dropped_lines())

    def callback_failed(self, event: CallbackFailed) -> None:
        self._errors[event.callback].inc()

    def callback_slow(self, _event: CallbackSlow) -> None:
        self._slow.inc()
