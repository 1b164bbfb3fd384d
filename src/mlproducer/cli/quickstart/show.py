"""What quickstart prints: steps, bars and a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from rich import box
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from mlproducer.cli.output import Output, span
from mlproducer.cli.quickstart.feed import Story

_EVERY: Final = 1.0
"""Seconds between two lines of progress where no bar can be drawn."""


@dataclass(slots=True)
class Screen:
    out: Output
    steps: list[str] = field(default_factory=list)

    @property
    def live(self) -> bool:
        return self.out.screen.is_terminal and not self.out.as_json

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """One thing that is started: says what goes on while it does, and `✓` with the last words when it is up."""
        began = time.monotonic()
        last = ""
        if self.live:
            with self.out.screen.status(f"{name} …") as status:

                def say(text: str) -> None:
                    nonlocal last
                    last = text
                    status.update(f"[bold]{name}[/bold]  {escape(text)} …")

                yield say
        else:

            def say(text: str) -> None:
                nonlocal last
                last = text
                self.out.say(f"{name}: {escape(text)}")

            yield say
        took = span(time.monotonic() - began)
        mark = "[green]✓[/green] " if self.live else ""
        self.out.say(f"{mark}[bold]{name:<8}[/bold] {escape(last)} [dim]({took})[/dim]")

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
        for text in story.refused[:5]:
            self.out.say(f"[red]refused[/red] {escape(text)}")
        if story.failed:
            self.out.say(f"[red]{len(story.failed)} failed at the worker[/red]")
        self.out.screen.print()
        for name, address in addresses.items():
            self.out.say(f"{name:<9} [link={address}]{address}[/link]" if self.live else f"{name:<9} {address}")
