"""docs/states.md is drawn from the tables: `python tests/core/test_state_diagrams.py` writes it again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from mlproducer.core import breaker, lifecycle, supervisor
from mlproducer.events import BreakerState
from mlproducer.task import TaskState

PAGE = Path(__file__).parents[2] / "docs" / "states.md"

INTRODUCTION = """\
# States

Three state machines run a producer. Each is a literal table in `src/mlproducer/core/`; this page is drawn from those
tables, and a test fails if it differs (`python tests/core/test_state_diagrams.py` writes it again).
"""
TASK = """\
## A task (`core/lifecycle.py`)

A task is in exactly one of these states. A receipt is given in `confirmed` or `spooled` only. What a failed attempt
means is decided by `decide` in `core/retry.py`; this table says where a task may go.
"""
BREAKER = """\
## The circuit breaker (`core/breaker.py`)

While it is half-open one attempt at a time is admitted as a probe.
"""
SUPERVISOR = """\
## The supervisor, which keeps the connection (`core/supervisor.py`)

After a slash: what the machine asks the shell to do. `AttemptsSpent` is the `ConnectFailed` that was a cycle's last,
or a slow probe's. Coming to `waiting` starts the timer of the back-off; coming to `exhausted` for the first time in a
cycle is told to the listeners. In `exhausted` each health check, and each half-opening of the breaker, gives one
attempt.
"""
RACES = """\
### Events that may come too late

They change nothing. Every pair that is neither here nor in the diagram is a bug in the shell and raises `IllegalEvent`.

| event | while | because |
|---|---|---|
"""

Arrow = tuple[str, str, str]


def diagram(first: str, arrows: Iterable[Arrow], last: Iterable[str] = ()) -> str:
    """A mermaid state diagram of (from, to, label); labels of the same arrow are put together."""
    labels: dict[tuple[str, str], list[str]] = defaultdict(list)
    for before, after, label in arrows:
        labels[before, after].append(label)
    lines = [f"    [*] --> {first}"]
    lines += [f"    {before} --> {after}: {', '.join(names)}" for (before, after), names in labels.items()]
    lines += [f"    {state} --> [*]" for state in last]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```", ""])


def task_diagram() -> str:
    arrows = [(before.value, after.value, move.value) for (before, move), after in lifecycle.MOVES.items()]
    return diagram(TaskState.ACCEPTED.value, arrows, [TaskState.CONFIRMED.value])


def breaker_diagram() -> str:
    arrows = [(named(before), named(after), signal.value) for (before, signal), after in breaker.TABLE.items()]
    return diagram(named(BreakerState.CLOSED), arrows)


def named(state: BreakerState) -> str:
    return state.name.lower()


def supervisor_diagram() -> str:
    arrows = []
    for (before, event), (after, _, effects) in supervisor.TABLE.items():
        asked = " and ".join(type(effect).__name__ for effect in effects)
        arrows.append((before.value, after.value, f"{event.__name__} / {asked}" if asked else event.__name__))
    return diagram(supervisor.SupervisorState.IDLE.value, arrows, [supervisor.SupervisorState.CLOSED.value])


def race_table() -> str:
    rows = [
        f"| {event.__name__} | {', '.join(s.value for s in supervisor.SupervisorState if s in states)} | {why} |"
        for event, states, why in supervisor.RACES
    ]
    return RACES + "\n".join(rows) + "\n"


def page() -> str:
    sections = (
        INTRODUCTION,
        *(TASK, task_diagram()),
        *(BREAKER, breaker_diagram()),
        *(SUPERVISOR, supervisor_diagram()),
        race_table(),
    )
    return "\n".join(sections)


def test_the_page_of_states_is_drawn_from_the_tables() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), f"run: python {Path(__file__).name}"


def test_arrows_between_the_same_states_are_drawn_as_one_with_all_their_labels() -> None:
    drawn = diagram("a", [("a", "b", "x"), ("b", "a", "y"), ("a", "b", "z")], ["b"])
    assert drawn.splitlines()[2:-1] == ["    [*] --> a", "    a --> b: x, z", "    b --> a: y", "    b --> [*]"]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
