"""Who is told which event, and what becomes of one who fails at it."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from mlproducer.delivery.callbacks import Callbacks, ends_the_program, name_of
from mlproducer.events import (
    ALL_EVENTS,
    AttemptSettled,
    CallbackFailed,
    CallbackSlow,
    Event,
    TaskAccepted,
    TaskConfirmed,
)
from mlproducer.ports import Listener

SLOW: Final = 0.1
"""Seconds within which a listener should be done: asyncio's own measure of a slow callback. As long as it takes, the
event loop stands still: no confirm is read, no heartbeat sent."""
FREQUENT: Final = frozenset({TaskAccepted, AttemptSettled, TaskConfirmed})
"""Told for each task: to look at the clock for them costs more than our own log, which mostly has no line for them."""


class Announcer:
    """Tells each event to those who care, `ours` first. Ours say which they do (`handlers`): tens of thousands of tasks
    a second tell three events each, and a listener that would only look the event up and let it go is not asked.

    One event after the other: what is told from within a listener (it asked for a reconnect) comes after the event that
    it was told, to everybody. What a listener raises is its own affair: see `delivery.callbacks`. One that takes long
    is named; so is the log, whose lines go through the application's handlers.

    Raises: TypeError, for a listener that nobody would await.
    """

    __slots__ = ("_callbacks", "_monotonic", "_names", "_slow", "_telling", "_told", "_waiting")

    def __init__(
        self,
        ours: Sequence[Listener],
        log: Listener,
        listeners: Sequence[Listener],
        callbacks: Callbacks,
        monotonic: Callable[[], float],
    ) -> None:
        for each in listeners:
            _refuse_coroutine(each)
        self._told = {
            kind: (_told((*ours, log), kind), _told(listeners, kind))
            if kind in FREQUENT
            else (_told(ours, kind), _told((log, *listeners), kind))
            for kind in ALL_EVENTS
        }
        self._names = {id(found): name_of(each) for each in (*ours, log, *listeners) for found in _all(each)}
        self._callbacks = callbacks
        self._monotonic = monotonic
        self._telling = False
        self._waiting: deque[Event] = deque()
        self._slow: set[int] = set()

    def tell(self, event: Event) -> None:
        waiting = self._waiting
        if self._telling:
            waiting.append(event)
            return
        self._telling = True
        try:
            while True:
                ours, listeners = self._told[type(event)]
                for handle in ours:
                    try:
                        handle(event)
                    except BaseException as error:  # noqa: BLE001  # see `delivery.callbacks`
                        self._failed(event, handle, error)
                if listeners:
                    self._tell_timed(listeners, event)
                if not waiting:
                    return
                event = waiting.popleft()
        finally:
            self._telling = False

    def _tell_timed(self, listeners: Sequence[Listener], event: Event) -> None:
        began = self._monotonic()
        for handle in listeners:
            try:
                handle(event)
            except BaseException as error:  # noqa: BLE001  # see `delivery.callbacks`
                self._failed(event, handle, error)
            now = self._monotonic()
            if now - began > SLOW:
                self._late(event, handle, now - began)
            began = now

    def _failed(self, event: Event, handle: Listener, error: BaseException) -> None:
        # Who fails at everything fails at hearing of it too: told of that in turn, it would go on for ever.
        if type(event) is not CallbackFailed or ends_the_program(error):
            self._callbacks.failed("listener", self._names[id(handle)], error)

    def _late(self, event: Event, handle: Listener, seconds: float) -> None:
        if type(event) is not CallbackSlow:
            first = id(handle) not in self._slow
            self._slow.add(id(handle))
            self.tell(CallbackSlow(self._names[id(handle)], type(event).__name__, seconds, first))


def _refuse_coroutine(listener: Listener) -> None:
    if inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(type(listener).__call__):
        raise TypeError(
            f"the listener {name_of(listener)} is a coroutine function: listeners are called on the event loop and not "
            "awaited; give a plain function, which may start an asyncio task of its own"
        )


def _told(listeners: Sequence[Listener], kind: type[Event]) -> tuple[Listener, ...]:
    return tuple(found for each in listeners if (found := _handler(each, kind)) is not None)


def _handler(listener: Listener, kind: type[Event]) -> Listener | None:
    handlers: Mapping[type[Event], Listener] | None = getattr(listener, "handlers", None)
    return listener if handlers is None else handlers.get(kind)


def _all(listener: Listener) -> Iterable[Listener]:
    return (found for kind in ALL_EVENTS if (found := _handler(listener, kind)) is not None)
