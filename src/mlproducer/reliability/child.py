"""The producer that `crash-recovery` kills. Its settings come as JSON on stdin.

To stdout it writes, a line each: `<task id> called <digest>` before a publish; `<task id> <state>` for each receipt,
before its caller goes on, which is what the caller was told; `<task id> later` for a task that is confirmed, perhaps
from the spool; `<task id> unsure` for an attempt without an answer. Nobody stops it; it is killed.
"""

from __future__ import annotations

import asyncio
import json
import sys

from mlproducer.events import AttemptSettled, Event, TaskConfirmed
from mlproducer.outcome import Unsure
from mlproducer.reliability.message import expected
from mlproducer.reliability.stage import OwnSettings, sample
from mlproducer.wiring import Producer


async def run(callers: int, rest: float, settings: OwnSettings) -> None:
    def hear(event: Event) -> None:
        match event:
            case TaskConfirmed(task_id=task_id):
                say(task_id, "later")
            case AttemptSettled(task_id=task_id, outcome=Unsure()):
                say(task_id, "unsure")
            case _:
                pass

    async with Producer(settings, listeners=[hear]) as producer:

        async def caller(number: int) -> None:
            while True:
                task = sample(number)
                say(task.id, f"called {expected(task)}")
                receipt = await producer.publish(task)
                say(receipt.task_id, receipt.state.value)
                await asyncio.sleep(rest)

        await asyncio.gather(*(caller(n) for n in range(callers)))


def say(task_id: str, what: str) -> None:
    sys.stdout.write(f"{task_id} {what}\n")
    sys.stdout.flush()


def main() -> None:
    told = json.load(sys.stdin)
    asyncio.run(run(told["callers"], told["rest"], OwnSettings.load(**told["settings"])))


if __name__ == "__main__":
    main()
