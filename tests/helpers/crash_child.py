"""A producer that kills itself with -9 at one step of one task's way: a child of `forking.serve`.

Into the file `told` it writes `called ID` before each publish, and `accepted ID` once the caller has the receipt.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from forking import serve
from mlproducer import Producer, Settings, Task
from mlproducer.amqp.broker import AmqpBroker
from mlproducer.amqp.config import AmqpConfig
from mlproducer.envelope.types import TaskTypes
from mlproducer.errors import BrokerError
from mlproducer.outcome import Outcome
from mlproducer.ports import Listener, Settle
from mlproducer.spool import open_spool
from mlproducer.task import Envelope
from mlproducer.wiring import Overrides, SystemClock

FLUSHED = 0.05
"""Seconds after which a written message has left the process."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Countdown:
    """Dies when it is told of `step` for the `nth` time."""

    def __init__(self, step: str, nth: int) -> None:
        self._step = step
        self._left = nth

    def __call__(self, step: str) -> bool:
        """True if this is the step; the caller dies then."""
        if step != self._step:
            return False
        self._left -= 1
        return self._left == 0


class CrashingSpool:
    """Each method of the real one has a moment before it and one after it."""

    def __init__(self, real: Any, now: Countdown) -> None:
        self._real = real
        self._now = now

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name not in {"put", "claim", "confirm", "lease", "settle"}:
            return found
        return self._around(name, found)

    def _around(self, name: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def with_moments(*args: Any, **kwargs: Any) -> Any:
            if self._now(f"{name}.before"):
                die()
            result = await call(*args, **kwargs)
            if (result or name != "lease") and self._now(f"{name}.after"):
                die()
            return result

        return with_moments


class CrashingBroker(AmqpBroker):
    """A moment before a message is written, one after, and one when its confirm is heard and nobody told yet."""

    now: Countdown

    def publish(self, envelope: Envelope, settle: Settle, *, deadline: float, alone: bool = False) -> None:
        if self.now("publish.before"):
            die()
        written = self.now("publish.written")
        heard = not written and self.now("publish.heard")

        def settled(outcome: Outcome) -> None:
            if heard:
                die()
            if not written:
                settle(outcome)

        super().publish(envelope, settled, deadline=deadline, alone=alone)
        if written:
            asyncio.get_running_loop().call_later(FLUSHED, die)


async def run(orders: dict[str, Any]) -> None:
    told = os.open(orders["told"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def say(*words: str) -> None:
        os.write(told, " ".join(words).encode() + b"\n")

    now = Countdown(orders["step"], orders["nth"])
    settings = Settings.load(**orders["settings"])

    def broker(lost: Callable[[BrokerError], None], tell: Listener) -> CrashingBroker:
        config = AmqpConfig.from_settings(settings, TaskTypes.chosen(settings).plans, credentials=None)
        made = CrashingBroker(config, SystemClock(), tell, lost)
        made.now = now
        return made

    spool: Any = CrashingSpool(open_spool(settings.spool_url), now)
    async with Producer(settings, overrides=Overrides(broker=broker, spool=spool)) as producer:
        await producer.connected(20)
        for fields in orders["tasks"]:
            task = Task.model_validate(fields)
            say("called", task.id)
            receipt = await producer.publish(task)
            say("accepted", receipt.task_id)
        await asyncio.sleep(orders["linger"])
    say("survived", "-")


if __name__ == "__main__":
    serve(run)
