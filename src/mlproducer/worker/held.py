"""A claim that this process holds, and renews until its end."""

from __future__ import annotations

import threading
import time
from typing import Final

from mlproducer.errors import OnceUnavailable
from mlproducer.loggers import get_logger
from mlproducer.worker.claims import Claim, ClaimStore

RENEWALS: Final = 3
"""In each lease, so that one or two may fail."""
FINISH_TRIES: Final = (0.2, 1.0, 3.0)
"""Seconds before the next try to say that a task is done."""
STOP_SECONDS: Final = 1.0

_log: Final = get_logger("mlproducer.worker")


class Held:
    """Renewed by a thread of its own, as the task's thread is at work."""

    def __init__(self, store: ClaimStore, claim: Claim, lease: float, ttl: float) -> None:
        self._store = store
        self._claim = claim
        self._lease = lease
        self._ttl = ttl
        self._over = threading.Event()
        self._returned_at: float | None = None
        self._renewing = threading.Thread(target=self._renew, name="mlproducer-once", daemon=True)
        self._renewing.start()

    def returned(self) -> None:
        """The work is over and Celery does the rest: if it never says how that went, the claim ends by itself."""
        self._returned_at = time.monotonic()

    def finish(self) -> None:
        """The task is done. If the store cannot be told, the claim runs out, and a later copy will run again."""
        for pause in (*FINISH_TRIES, None):
            try:
                self._store.finish(self._claim, self._ttl)
            except OnceUnavailable as error:
                if pause is None:
                    _log.warning("task %s is done, and a copy of it may run again: %s", self._claim.task_id, error)
                else:
                    time.sleep(pause)
            else:
                break
        self._stop()

    def release(self) -> None:
        """It came to nothing: the next copy may run at once. If the store cannot be told, it waits for the lease."""
        self._stop()
        try:
            self._store.release(self._claim)
        except OnceUnavailable as error:
            _log.warning("task %s keeps its claim for %.0f s more: %s", self._claim.task_id, self._lease, error)

    def _stop(self) -> None:
        """A renewal that is under way comes to its end first; not one that waits for a store that is away."""
        self._over.set()
        self._renewing.join(STOP_SECONDS)

    def _renew(self) -> None:
        while not self._over.wait(self._lease / RENEWALS):
            if self._returned_at is not None and time.monotonic() - self._returned_at > self._lease:
                return
            try:
                ours = self._store.renew(self._claim, self._lease)
            except OnceUnavailable as error:
                _log.warning("the claim of task %s was not renewed: %s", self._claim.task_id, error)
                continue
            if not ours:
                if self._returned_at is None and not self._over.is_set():
                    _log.warning(
                        "task %s may run elsewhere too: its lease of %.0f s was over before it was renewed",
                        self._claim.task_id,
                        self._lease,
                    )
                return
