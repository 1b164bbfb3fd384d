"""What quickstart prints: steps, bars and a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from mlproducer.cli.output import Output, plural, span
from mlproducer.cli.quickstart.feed import Story

_EVERY: Final = 1.0
"""Seconds between two lines of progress where no bar can be drawn."""


@dataclass(slots=True)
class Step:
    say: Callable[[str], None]
    """What goes on now."""
    result: str = ""
    """What came of it; set before the step ends."""


@dataclass(frozen=True, slots=True)
class Screen:
    out: Output

    @property
    def live(self) -> bool:
        return self.out.screen.is_terminal and not self.out.as_json

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """One thing that is started or stopped: what goes on while it is, and one line when it is done."""
        began = time.monotonic()
        if self.live:
            with self.out.screen.status(f"[bold]{name}[/bold]") as status:
                step = Step(lambda text: status.update(f"[bold]{name:<8}[/bold] {escape(text)} …"))
                yield step
        else:
            step = Step(_once(lambda text: self.out.say(f"{name}: {escape(text)} ...")))
            yield step
        took = span(time.monotonic() - began)
        if self.live:
            self.out.say(f"[green]✓[/green] [bold]{name:<8}[/bold] {escape(step.result)} [dim]{took}[/dim]")
        else:
            self.out.say(f"{name}: {escape(step.result)} ({took})")

    @contextmanager
    def progress(self, tasks: int) -> Iterator[Callable[[Story], None]]:
        """Shows the story as it grows towards `tasks`."""
        if not self.live:
            yield self._lines(tasks)
            return
        columns = (
            TextColumn("  {task.description:<10}"),
            BarColumn(bar_width=40, complete_style="cyan", finished_style="green"),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.out.screen) as progress:
            bars = [progress.add_task(name, total=tasks) for name in ("accepted", "confirmed", "processed")]

            def show(story: Story) -> None:
                done = (story.accepted, len(story.confirmed), len(story.processed))
                for bar, count in zip(bars, done, strict=True):
                    progress.update(bar, completed=count)

            yield show

    def _lines(self, tasks: int) -> Callable[[Story], None]:
        at, said = 0.0, ""

        def show(story: Story) -> None:
            nonlocal at, said
            text = (
                f"accepted {story.accepted}, confirmed {len(story.confirmed)}, "
                f"processed {len(story.processed)} of {tasks}"
            )
            now = time.monotonic()
            if text != said and (now - at > _EVERY or story.settled):
                at, said = now, text
                self.out.say(text)

        return show

    def report(self, story: Story, addresses: dict[str, str]) -> None:
        """The table, and what to open."""
        if self.out.as_json:
            return
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
        table.add_column("task type")
        for name in ("accepted", "confirmed", "processed"):
            table.add_column(name, justify="right")
        rows = Counter(story.types.values())
        for kind in sorted(rows):
            ids = {task_id for task_id, each in story.types.items() if each == kind}
            table.add_row(kind, *(str(len(ids & found)) for found in (ids, story.confirmed.keys(), story.processed)))
        table.add_section()
        done = "bold green" if story.complete else "bold red"
        table.add_row(
            Text("all", style="bold"),
            *(Text(str(n), style=done) for n in (story.accepted, len(story.confirmed), len(story.processed))),
        )
        self.out.screen.print()
        self.out.screen.print(table)
        p50, p99 = story.latency(0.50), story.latency(0.99)
        if p50 is not None and p99 is not None:
            self.out.say(f"accept → confirm  [bold]p50 {span(p50)}[/bold]  [bold]p99 {span(p99)}[/bold]")
        if story.known:
            self.out.say(
                f"{plural(len(story.known), 'task')} known from an earlier run: the same share is the same task, "
                "and is not published again. Remove the data folder to see them go once more"
            )
        for text in story.refused[:5]:
            self.out.say(f"[red]refused[/red] {escape(text)}")
        if story.failed:
            self.out.say(f"[red]{plural(len(story.failed), 'task')} failed at the worker[/red]: see log/worker.log")
        if missing := story.accepted - len(story.processed) - len(story.failed):
            self.out.say(
                f"[red]{plural(missing, 'task')} not seen at our worker[/red]: "
                "does another worker take from the same queues? See log/worker.log"
            )
        self.out.screen.print()
        for name, address in addresses.items():
            self.out.say(f"{name:<9} [link={address}]{address}[/link]" if self.live else f"{name:<9} {address}")


def _once(say: Callable[[str], None]) -> Callable[[str], None]:
    """Says the same thing only once in a row."""
    last = ""

    def say_new(text: str) -> None:
        nonlocal last
        if text != last:
            last = text
            say(text)

    return say_new
