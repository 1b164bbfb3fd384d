"""The producer that `crash-recovery` kills. Its settings come as JSON on stdin.

Each receipt is written to stdout, `<task id> <state>`, before its caller goes on: that is what the caller was told. A
task that is confirmed from the spool is written as `<task id> later`. Nobody stops it; it is killed.
"""

from __future__ import annotations

import asyncio
import json
import sys

from mlproducer.events import Event, TaskConfirmed
from mlproducer.reliability.stage import OwnSettings, sample
from mlproducer.wiring import Producer


async def run(callers: int, rest: float, settings: OwnSettings) -> None:
    def hear(event: Event) -> None:
        if isinstance(event, TaskConfirmed):
            say(event.task_id, "later")

    async with Producer(settings, listeners=[hear]) as producer:

        async def caller(number: int) -> None:
            while True:
                receipt = await producer.publish(sample(number))
                say(receipt.task_id, receipt.state.value)
                await asyncio.sleep(rest)

        await asyncio.gather(*(caller(n) for n in range(callers)))


def say(task_id: str, state: str) -> None:
    sys.stdout.write(f"{task_id} {state}\n")
    sys.stdout.flush()


def main() -> None:
    told = json.load(sys.stdin)
    asyncio.run(run(told["callers"], told["rest"], OwnSettings.load(**told["settings"])))


if __name__ == "__main__":
    main()
