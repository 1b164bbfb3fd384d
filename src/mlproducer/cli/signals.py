"""Ctrl-C and SIGTERM as an event: the first asks to finish in order, the second insists."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals(asked: Callable[[], None] = lambda: None) -> Iterator[asyncio.Event]:
    """An event that the first SIGINT or SIGTERM sets, after calling `asked`; the next cancels the current task."""
    loop = asyncio.get_running_loop()
    current = asyncio.current_task()
    stop = asyncio.Event()

    def on_signal() -> None:
        if not stop.is_set():
            stop.set()
            asked()
        elif current is not None:
            current.cancel()

    for each in _SIGNALS:
        loop.add_signal_handler(each, on_signal)
    try:
        yield stop
    finally:
        for each in _SIGNALS:
            loop.remove_signal_handler(each)
