"""Code of the application that we call: its listeners, its `progress`, its tracer.

It cannot break the promise. What it raises ends here: it is told once a kind with its traceback, counted each time
(`ml_producer_listener_errors_total`), and what we were doing goes on as if it had not happened. The order in our own
code is the same everywhere: settle first, tell after.

What it may raise, and what then happens:

    an Exception                    told and counted
    CancelledError                  the same. It comes from something of the application's own; let through, it would
                                    look as if our caller had been cancelled
    KeyboardInterrupt, SystemExit   the program is to end, and ends: from the event loop's next turn, as if a signal
                                    had come, and not in the middle of a task that is being settled
    any other BaseException         told and counted
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from typing import Final, NoReturn, ParamSpec

from mlproducer.events import CallbackFailed, CallbackKind
from mlproducer.ports import Listener

P = ParamSpec("P")

KINDS_KEPT: Final = 1_000
"""Kinds of errors that are remembered as told; a program that makes up classes of errors cannot fill our memory."""
FRAMES: Final = 20
"""Of a traceback, the last ones: an error that is raised again and again grows by one each time."""


class Callbacks:
    """Hears how the application's code fared. `tell` as everywhere."""

    def __init__(self, tell: Listener) -> None:
        self._tell = tell
        self._known: set[tuple[str, str, str]] = set()

    def failed(self, callback: CallbackKind, name: str, error: BaseException) -> None:
        """`name` says whose code it was. Raises nothing, unless there is no event loop to end the program from."""
        if ends_the_program(error):
            _end_the_program(error)
            return
        kind = type(error).__name__
        first = self._first((callback, name, kind))
        trace = "".join(traceback.format_exception(error, limit=-FRAMES)) if first else ""
        self._tell(CallbackFailed(callback, name, kind, str(error), trace))

    def guarded(self, callback: CallbackKind, function: Callable[P, object]) -> Callable[P, None]:
        """`function`, which then raises nothing."""
        name = name_of(function)

        def call(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                function(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001  # see above
                self.failed(callback, name, error)

        return call

    def _first(self, kind: tuple[str, str, str]) -> bool:
        known = self._known
        if kind in known or len(known) >= KINDS_KEPT:
            return False
        known.add(kind)
        return True


def name_of(function: object) -> str:
    """As its author would look for it: module and qualified name."""
    found = getattr(function, "func", function)  # of a functools.partial
    named = found if hasattr(found, "__qualname__") else type(found)
    return f"{named.__module__}.{named.__qualname__}"


def ends_the_program(error: BaseException) -> bool:
    return isinstance(error, KeyboardInterrupt | SystemExit)


def _end_the_program(error: BaseException) -> None:
    def end() -> NoReturn:
        raise error

    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise error from None  # no loop runs, so nothing of ours is under way
    loop.call_soon(end)
