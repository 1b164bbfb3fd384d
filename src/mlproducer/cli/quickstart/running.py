"""What quickstart has started, and how it is stopped: in order, each by its own process id."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final, Self

from mlproducer.cli.quickstart.broker import Found
from mlproducer.cli.quickstart.children import Child, Program
from mlproducer.cli.quickstart.show import Screen

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SERVICE_STOP: Final = 30.0
"""Seconds; the service bounds its own drain (ML_SHUTDOWN_TIMEOUT), this is for one that hangs."""
_WORKER_STOP: Final = 15.0
"""Seconds for Celery's warm shutdown: the tasks that it is at."""


class Stopped(BaseException):
    """Ctrl-C, SIGTERM or a closed terminal. Not an `Exception`: only the end of the command catches it."""


@dataclass(slots=True)
class Running:
    """While it is entered, signals raise `Stopped` wherever the command is. On leaving, all is stopped: first the
    service, which drains into the broker, then the worker, then a broker of ours.
    """

    screen: Screen
    broker: Found | None = None
    service: Child | None = None
    worker: Child | None = None
    _before: dict[signal.Signals, Any] = field(default_factory=dict)
    _held: bool = False
    _asked: bool = False

    def __enter__(self) -> Self:
        self._before = {each: signal.signal(each, self._on_signal) for each in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._stop()
        finally:
            for each, handler in self._before.items():
                signal.signal(each, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A signal in here takes effect at the end.

        Why: we fork; the signal comes before the new process is noted; nobody would ever stop it.
        """
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._asked:
            raise Stopped

    def start_service(self, program: Program) -> Child:
        with self.held():
            self.service = program.start()
        return self.service

    def start_worker(self, program: Program) -> Child:
        with self.held():
            self.worker = program.start()
        return self.worker

    def start_broker(self, start: Callable[[], Found]) -> Found:
        with self.held():
            self.broker = start()
        return self.broker

    def check(self) -> None:
        """Raises: ChildFailed."""
        for child in (self.service, self.worker):
            if child is not None:
                child.check()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        if not self._held:
            raise Stopped

    def _stop(self) -> None:
        patient = True
        stops = self._stops()
        if stops:
            self.screen.out.say("")
        for name, stop in stops:
            try:
                with self.screen.step(name) as step:
                    step.say("stopping")
                    stop(patient)
                    step.result = "stopped"
            except Stopped:  # a second Ctrl-C: no more waiting, but still nothing is left behind
                patient = False
                stop(patient)

    def _stops(self) -> list[tuple[str, Callable[[bool], None]]]:
        stops: list[tuple[str, Callable[[bool], None]]] = []
        for child, seconds in ((self.service, _SERVICE_STOP), (self.worker, _WORKER_STOP)):
            if child is not None:
                stops.append((child.name, _stopper(child, seconds)))
        broker = self.broker
        if broker is not None and broker.private is not None:
            stops.append(("broker", lambda _patient: broker.stop()))
        return stops


def _stopper(child: Child, seconds: float) -> Callable[[bool], None]:
    return lambda patient: child.stop(seconds if patient else 0)
