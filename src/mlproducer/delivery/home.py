"""Where a producer may be used: in the process, thread and event loop that it was started in.

Its connection, its timers and the futures of its callers belong to that loop. A call from elsewhere would encode a task
and write it, and then wait for an answer that another loop is given: for ever, or with the task in the spool and an
error for its caller. So each entry point looks here first, before anything else happens (docs/adr/0013).
"""

from __future__ import annotations

import asyncio
import os
import threading

from mlproducer.delivery.poll_sets import Mark
from mlproducer.errors import WrongLoop


class Home:
    """None of these as long as nobody has entered: a producer that is not started, or is stopped, is nowhere."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = self._thread = 0
        self._thread_name = ""
        self._mark: Mark | None = None

    def enter(self) -> None:
        """The running loop is home from now on."""
        self._loop = asyncio.get_running_loop()
        self._process, self._thread = os.getpid(), threading.get_ident()
        self._thread_name = threading.current_thread().name
        self._mark = Mark(self._loop)

    def leave(self) -> None:
        self._loop = None
        if self._mark is not None:
            self._mark.take_away()

    @property
    def forked(self) -> bool:
        """This is a child of the process that it lives in, with a copy of its memory and none of its threads."""
        return self._loop is not None and os.getpid() != self._process

    def look(self) -> None:
        """Raises: WrongLoop, which names the right way."""
        if self._loop is not None and (os.getpid() != self._process or _running() is not self._loop):
            raise WrongLoop(self._why())

    def _why(self) -> str:
        if self.forked:
            return (
                f"this producer was started in process {self._process} and is used in process {os.getpid()}, after a "
                "fork: its connection and its threads are still in the first. Make a producer in each process, after "
                "the fork (gunicorn: without --preload; multiprocessing: in the function that the child runs)"
            )
        if threading.get_ident() != self._thread:
            return (
                f"this producer was started on the event loop of thread {self._thread_name} and is used from thread "
                f"{threading.current_thread().name}. Keep its loop (asyncio.get_running_loop() at its start) and call "
                "asyncio.run_coroutine_threadsafe(producer.publish(task), loop).result(); what is no coroutine, "
                "such as status(), call within one"
            )
        if _running() is None:
            return (
                "this producer is used while its event loop does not run: call it within a coroutine of the same "
                "asyncio.run() that started it"
            )
        return (
            "this producer was started on another event loop than the one that runs now: each asyncio.run() makes one "
            "of its own. Start it, use it and stop it within one asyncio.run(), or make a producer for each"
        )


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
