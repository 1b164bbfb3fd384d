"""Producers under load, to be killed: children of `forking.serve`.

What a producer's callers do and are told goes into a file, each line by a write of its own, so that all of it is there
whatever became of the process:

    started                        the producer is open (and connected, if told to wait for that)
    called ID DIGEST               before each publish; what its message must be, as the judge sees it
    accepted ID STATE TIME         a caller has the receipt
    refused ID ERROR SECONDS WORDS it was refused, how long after the call, and why
    confirmed ID                   an event: confirmed by the broker, perhaps from the spool
    unsure ID CAUSE                an event: published, and the broker did not answer
    failed WORDS                   an event: the connection failed
    drained                        nothing waits in the spool
    stopped                        politely, after SIGTERM or when the orders were done

`Producers` in `producers.py` is the other side.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg  # noqa: F401  # here, and so not again in each child
import redis.asyncio  # noqa: F401  # see above

from forking import serve
from mlproducer import Producer, Receipt, Settings, Task
from mlproducer.errors import RefusedTask
from mlproducer.events import AttemptSettled, ConnectionFailed, Event, TaskConfirmed
from mlproducer.outcome import Unsure
from mlproducer.reliability.message import expected
from mlproducer.testing.clock import WrongClock
from mlproducer.wiring import Overrides

CHOSEN = "chosen-"
"""Ids that a caller chose begin so."""
RAMP = 0.02
"""Seconds that the first caller is alone: it learns for all of them if the broker blocks."""
REFUSED_REST = 0.01


class Child:
    """One producer and its callers, as `orders` say. All are optional but `settings` and `told`.

    `callers` call all the time, `rest` seconds after each answer; every third chooses its ids, and first those of
    `again`. `repeat` ids are called once each, and `fill` random ones. `text` is the payload's length.
    `wait`: for the broker, before the first call. `drain`: end when the spool is empty. `events`: tell those above;
    attempts without an answer are told all the same.
    `ahead`: by how many seconds the clock of the child's host is wrong.
    """

    def __init__(self, orders: dict[str, Any]) -> None:
        self._orders = orders
        self._told = os.open(orders["told"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._again = deque(orders.get("again", ()))
        self._stop = asyncio.Event()

    def say(self, *words: object) -> None:
        os.write(self._told, " ".join(map(str, words)).replace("\n", " ").encode() + b"\n")

    async def run(self) -> None:
        orders = self._orders
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop.set)
        clock = WrongClock(orders.get("ahead", 0.0))
        settings, overrides = Settings.load(**orders["settings"]), Overrides(clock=clock)
        async with Producer(settings, listeners=[self._hear], overrides=overrides) as producer:
            if orders.get("wait"):
                await producer.connected(20)
            self.say("started")
            await self._fill(producer, orders.get("fill", 0))
            await asyncio.gather(*(self._ask(producer, each, chosen=True) for each in orders.get("repeat", ())))
            callers = []
            for n in range(orders.get("callers", 0)):
                callers.append(asyncio.create_task(self._call(producer, chosen=n % 3 == 2)))
                await asyncio.sleep(0 if n else RAMP)
            if callers:
                await self._stop.wait()
                await asyncio.gather(*callers)
            if orders.get("drain"):
                await self._drained(producer)
        self.say("stopped")

    def _hear(self, event: Event) -> None:
        match event:
            case AttemptSettled(task_id=task_id, outcome=Unsure(cause=cause)):
                self.say("unsure", task_id, cause.value)
            case _ if not self._orders.get("events"):
                pass
            case TaskConfirmed(task_id=task_id):
                self.say("confirmed", task_id)
            case ConnectionFailed(text=text):
                self.say("failed", text)

    async def _call(self, producer: Producer, *, chosen: bool) -> None:
        while not self._stop.is_set():
            task_id = (self._again.popleft() if self._again else CHOSEN + uuid4().hex) if chosen else None
            if not await self._ask(producer, task_id, chosen=chosen):
                await asyncio.sleep(REFUSED_REST)
            await asyncio.sleep(self._orders.get("rest", 0))

    async def _ask(self, producer: Producer, task_id: str | None, *, chosen: bool) -> bool:
        task = self._task(task_id if chosen else None)
        self.say("called", task.id, expected(task))
        began = time.monotonic()
        try:
            receipt = await producer.publish(task)
        except RefusedTask as error:
            self.say("refused", task.id, type(error).__name__, f"{time.monotonic() - began:.3f}", error)
            return False
        self._accepted(receipt)
        return True

    def _accepted(self, receipt: Receipt) -> None:
        self.say("accepted", receipt.task_id, receipt.state.value, f"{time.time():.3f}")

    async def _fill(self, producer: Producer, count: int) -> None:
        def tasks() -> Iterator[Task]:
            for _ in range(count):
                task = self._task()
                self.say("called", task.id, expected(task))
                yield task

        if count:
            async for receipt in producer.publish_many(tasks()):
                if isinstance(receipt, Receipt):
                    self._accepted(receipt)

    async def _drained(self, producer: Producer) -> None:
        while await producer.waiting(limit=1) and not self._stop.is_set():  # noqa: ASYNC110  # no event for it
            await asyncio.sleep(0.05)
        self.say("drained")

    def _task(self, task_id: str | None = None) -> Task:
        orders = self._orders
        given: dict[str, Any] = {} if task_id is None else {"id": task_id}
        for when in ("eta", "expires"):
            if when in orders:
                wrong = orders[when] + orders.get("ahead", 0.0)
                given[when] = datetime.now(UTC) + timedelta(seconds=wrong)
        # Its content is its own, and the same when it is asked for again.
        own = task_id or uuid4().hex
        payload = {"share_id": "s", "content": f"{own} " + "t" * orders.get("text", 250)}
        return Task(task_type="embed_vectors", payload=payload, **given)


async def run(orders: dict[str, Any]) -> None:
    await Child(orders).run()


if __name__ == "__main__":
    serve(run)
