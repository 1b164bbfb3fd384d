"""What quickstart has started, and how it is stopped: in order, each by its own process id."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Final, Self

from mlproducer.cli.quickstart.broker import Found
from mlproducer.cli.quickstart.children import Child
from mlproducer.cli.quickstart.show import Screen

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SERVICE_STOP: Final = 30.0
"""Seconds; the service bounds its own drain (ML_SHUTDOWN_TIMEOUT), this is for one that hangs."""
_WORKER_STOP: Final = 15.0
"""Seconds for Celery's warm shutdown: the tasks that it is at."""


class Stopped(BaseException):
    """Ctrl-C, SIGTERM or a closed terminal. Not an `Exception`: only the end of the command catches it."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Signals raise `Stopped` in here, wherever the command is."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        raise Stopped

    before = {each: signal.signal(each, on_signal) for each in _SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@dataclass(slots=True)
class Running:
    """Stops on leaving: first the service, which drains into the broker, then the worker, then a broker of ours."""

    screen: Screen
    broker: Found | None = None
    service: Child | None = None
    worker: Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        patient = True
        for name, stop in self._stops():
            try:
                self.screen.out.say(f"stopping the {name} …")
                stop(patient)
            except Stopped:  # a second Ctrl-C: no more waiting, but still nothing is left behind
                patient = False
                stop(patient)
        self.screen.out.say("everything that was started is stopped")

    def check(self) -> None:
        """Raises: ChildFailed."""
        for child in (self.service, self.worker):
            if child is not None:
                child.check()

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
