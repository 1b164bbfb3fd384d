"""A broker in memory whose queues have each their own weather."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from engine_bench import Bench
from mlproducer import Task
from mlproducer.events import RouteChanged, RouteState
from mlproducer.outcome import Failure, Outcome
from mlproducer.ports import Settle
from mlproducer.task import Envelope

PATIENT: dict[str, Any] = {"ml_route_patience": 300, "ml_breaker_failures": 1_000}


def summary(n: object = 1, **fields: Any) -> Task:
    return Task(task_type="summarize_llm", payload={"share_id": f"s{n}", "content": f"text {n}"}, **fields)


class Weather:
    """What the broker does with a message of each queue; none: it is confirmed. SILENT ones are kept unanswered."""

    SILENT = "silent"

    def __init__(self, b: Bench) -> None:
        self._publish = b.broker.publish
        self._broker = b.broker
        self.of: dict[str, Failure | str] = {}
        self.kept: list[Settle] = []
        self.sent: dict[str, int] = defaultdict(int)
        b.broker.publish = self.publish  # type: ignore[method-assign]  # the script of a queue

    def publish(self, envelope: Envelope, settle: Settle, *, deadline: float, alone: bool = False) -> None:
        self.sent[envelope.routing_key] += 1
        weather = self.of.get(envelope.routing_key)
        if weather is None:
            self._publish(envelope, settle, deadline=deadline, alone=alone)
        elif isinstance(weather, str):
            self.kept.append(settle)
        else:
            asyncio.get_running_loop().call_soon(settle, weather)

    def answer(self, outcome: Outcome) -> None:
        kept, self.kept = self.kept, []
        for settle in kept:
            settle(outcome)


def states(b: Bench) -> list[tuple[str, RouteState]]:
    return [(event.route, event.state) for event in b.told(RouteChanged)]
