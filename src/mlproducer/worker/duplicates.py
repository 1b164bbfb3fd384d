"""`once`: a task that is delivered twice is done once.

RabbitMQ and the producer both deliver at least once. A second copy of a task has the same task id, and `once` keeps
the ids: in Redis or in SQL, shared by all workers. A run first *claims* its id, for a lease that it renews while it
works; when Celery has stored the result and sent what follows, the claim becomes *done*; a run that fails gives the
claim back. The races, each in order:

1. A finishes; its ack is lost; the broker delivers the message again. The id is done: dropped.
2. A dies at work. The broker delivers its message again to B, which finds A's claim and waits. Nobody renews it, so
   within one lease it is over, and B runs.
3. A dies between the end of its work and `done`. B runs it again: no store that is apart from the work can prevent
   that. What must not happen twice even so has to be made idempotent where it happens.
4. A loses its connection and works on. The broker delivers its message again to B, which waits, as the lease is being
   renewed. A finishes: done, and B drops its message. A fails: B runs it.
5. Two copies arrive at once. The second waits, as in 4.
6. A calls `self.retry()`, which sends the next message *before* A has ended. B gets it while A's claim stands, waits a
   moment, and runs. `replace` likewise. A task that was done once is never run again, of whichever retry a copy is.
7. A is stopped for longer than its lease (a suspended machine, code that holds the interpreter's lock) and B takes
   over. Both run. A's claim has another token by then, so A cannot release B's; each marks the id done.

`busy="skip"` does not wait in 5: a copy that the broker delivers for the first time is dropped if another runs. That
saves the waiting copy's place in the pool, and is safe only while the other's message is still with the broker, so it
is done with `acks_late` alone, and never for a message that was delivered before (2, 4) or was sent again on purpose
(6). It needs `reject_on_worker_lost` too, without which Celery acks the message of a run whose process died.

Without `acks_late` a copy that waits is in no queue any more, and a worker that dies takes it along: use both.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, Literal, ParamSpec, TypeVar

from mlproducer.errors import OnceUnavailable
from mlproducer.loggers import get_logger
from mlproducer.worker.claims import Claim, ClaimStore, Found, open_claims
from mlproducer.worker.delivery import Delivery, current_delivery, ignored, is_retry, listen, put_back
from mlproducer.worker.held import Held
from mlproducer.worker.opening import PerProcess

P = ParamSpec("P")
R = TypeVar("R")
Busy = Literal["wait", "skip"]

POLL: Final = 0.5
"""Seconds between two looks at a claim of another."""
TRIES: Final = (0.2, 0.5, 1.0)
"""Seconds before the next try, when the store does not answer: a restart of Redis, not an outage."""

_log: Final = get_logger("mlproducer.worker")
_mine: Final = threading.local()
_listening: Final = threading.Event()


def once(
    store: str | ClaimStore | None = None,
    *,
    ttl: float = 86_400.0,
    lease: float = 60.0,
    busy: Busy = "wait",
    strict: bool = False,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator, under `@app.task`: drops a delivery whose task id was done before.

        @app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
        @once("redis://localhost:6379/0")
        def summarize(self, share_id, content, options=None): ...

    `store` is `redis://`, `rediss://`, `sqlite:///` or `postgresql://`; without one, `ML_ONCE_URL` of the worker's
    environment. `ttl` is how long a done id is remembered, in seconds: longer than a message may stay in a queue.
    `lease` is how long a run that died holds its id, in seconds. `busy`: see above.

    A dropped delivery is logged and ended with Celery's `Ignore`: it is acked, the result of the run that counts stays
    as it is, and a chain goes on once. Outside of a worker, or called by hand or eagerly, the function simply runs.

    If the store does not answer, the task runs, and a warning says that it may be twice: no task is lost for a memory
    that is away. With `strict` it raises OnceUnavailable instead; then let Celery retry it (`autoretry_for`).
    """
    rules = _Rules(PerProcess(store, "ML_ONCE_URL", open_claims), ttl, lease, busy, strict)

    def decorate(work: Callable[P, R]) -> Callable[P, R]:
        _listen()

        @wraps(work)
        def at_most_once(*args: P.args, **kwargs: P.kwargs) -> R:
            delivery = current_delivery()
            # A task's function that calls another one by hand is still the same message.
            if delivery is None or getattr(_mine, "task_id", None) == delivery.task_id:
                return work(*args, **kwargs)
            _listen()  # if Celery was not loaded yet above
            held = rules.enter(delivery)
            _mine.task_id = delivery.task_id
            try:
                result = work(*args, **kwargs)
            except BaseException:
                _release(held)
                raise
            finally:
                _mine.task_id = None
            _leave(held, delivery, result)
            return result

        return at_most_once

    return decorate


def decide(found: Found, delivery: Delivery, busy: Busy) -> Literal["drop", "wait"]:
    """What to do with a delivery whose id is known. Pure; the reasons are in this module's docstring."""
    if found.done:
        return "drop"
    first = not delivery.redelivered and delivery.turn <= found.turn
    return "drop" if busy == "skip" and delivery.acks_late and first else "wait"


@dataclass(frozen=True, slots=True)
class _Rules:
    store: PerProcess[ClaimStore]
    ttl: float
    lease: float
    busy: Busy
    strict: bool

    def enter(self, delivery: Delivery) -> Held | None:
        """The claim; None if the store is away and the task is to run all the same.

        Raises: Celery's Ignore or Reject; OnceUnavailable.
        """
        lease, patience = _fitting(self.lease, delivery)
        claim = Claim(delivery.task_id, secrets.token_hex(16), delivery.turn)
        store = self.store()
        end = None if patience is None else time.monotonic() + patience
        told = False
        while True:
            try:
                found = _asked(lambda: store.claim(claim, lease))
            except OnceUnavailable as error:
                if self.strict:
                    raise
                _log.warning("task %s[%s] may run twice: %s", delivery.task, delivery.task_id, error)
                return None
            if found is None:
                return Held(store, claim, lease, self.ttl)
            if decide(found, delivery, self.busy) == "drop":
                why = "it was done before" if found.done else "another copy of it runs now"
                _log.info("task %s[%s] is dropped: %s", delivery.task, delivery.task_id, why)
                raise ignored(why)
            if not told:
                _log.info("task %s[%s] waits for another copy of it", delivery.task, delivery.task_id)
                told = True
            if end is not None and time.monotonic() >= end:
                raise put_back("another copy of it still runs")
            time.sleep(POLL)


def _fitting(lease: float, delivery: Delivery) -> tuple[float, float | None]:
    """The lease, and how long to wait for another's; None is without end.

    A time limit counts while a copy waits too, and one that it meets is failed and acked. So the message goes back to
    its queue at half of it, which costs one of its deliveries, and leases are short enough to be over by then.
    """
    limit = delivery.time_limit
    if limit is None:
        return lease, None
    # Without acks_late there is no queue to go back to.
    return min(lease, limit / 4), limit / 2 if delivery.acks_late else None


def _asked(question: Callable[[], Found | None]) -> Found | None:
    for pause in TRIES:
        with suppress(OnceUnavailable):
            return question()
        time.sleep(pause)
    return question()


def _leave(held: Held | None, delivery: Delivery, result: object) -> None:
    """The work returned. It is done once Celery has stored the result and sent what comes next: a worker that dies
    before that must find the task undone, or its chain would end there.
    """
    if held is None:
        return
    if is_retry(result):  # `return self.retry(throw=False)`
        held.release()
        return
    held.returned()
    delivery.request.mlproducer_once = held


def _release(held: Held | None) -> None:
    if held is not None:
        held.release()


def _succeeded(request: Any) -> None:  # noqa: ANN401  # Celery's request
    held: Held | None = getattr(request, "mlproducer_once", None)
    if held is not None:
        request.mlproducer_once = None
        held.finish()


def _ended(request: Any) -> None:  # noqa: ANN401  # Celery's request
    """Without success: the result could not be stored, or what follows could not be sent."""
    held: Held | None = getattr(request, "mlproducer_once", None)
    if held is not None:
        request.mlproducer_once = None
        held.release()


def _listen() -> None:
    if not _listening.is_set() and listen(_succeeded, _ended):
        _listening.set()
