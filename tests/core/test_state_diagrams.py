"""The diagrams of docs/implementation.md are drawn from the tables: `python tests/core/test_state_diagrams.py` draws them again."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from mlproducer.core import breaker, lifecycle, routes, supervisor
from mlproducer.events import BreakerState, RouteState
from mlproducer.task import TaskState

PAGE = Path(__file__).parents[2] / "docs" / "implementation.md"
REGION = re.compile(r"(<!-- drawn: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
RACES = """\
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


def route_diagram() -> str:
    arrows = [(named(before), named(after), signal.value) for (before, signal), after in routes.TABLE.items()]
    return diagram(named(RouteState.OPEN), arrows)


def named(state: BreakerState | RouteState) -> str:
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


DRAWN = {
    "task": task_diagram,
    "breaker": breaker_diagram,
    "route": route_diagram,
    "supervisor": supervisor_diagram,
    "races": race_table,
}


def page(text: str) -> str:
    """The page with all that is drawn in it drawn anew."""
    return REGION.sub(lambda found: f"{found[1]}\n{DRAWN[found[2]]()}\n{found[3]}", text)


def test_what_is_drawn_on_the_page_is_drawn_from_the_tables() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [name for _, name, _ in REGION.findall(text)] == list(DRAWN)
    assert text == page(text), f"run: python tests/core/{Path(__file__).name}"


def test_arrows_between_the_same_states_are_drawn_as_one_with_all_their_labels() -> None:
    drawn = diagram("a", [("a", "b", "x"), ("b", "a", "y"), ("a", "b", "z")], ["b"])
    assert drawn.splitlines()[2:-1] == ["    [*] --> a", "    a --> b: x, z", "    b --> a: y", "    b --> [*]"]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
