"""Metrics of what surrounds us in the process: the application's code that we call."""

from __future__ import annotations

from typing import get_args

from mlproducer.events import CallbackFailed, CallbackKind, CallbackSlow
from mlproducer.telemetry.cells import Board


class Surroundings:
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

    def callback_failed(self, event: CallbackFailed) -> None:
        self._errors[event.callback].inc()

    def callback_slow(self, _event: CallbackSlow) -> None:
        self._slow.inc()
