"""`mlproducer reliability`: break things on purpose, in private, and count what is lost."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from mlproducer.cli.output import ExitCode, JsonOption, Output, output, plural
from mlproducer.cli.quickstart.broker import NoBroker, install_server
from mlproducer.reliability import GROUPS, MEASURES, NAMES, Moment, Report, Scenario, Workshop, chosen, workshop
from mlproducer.reliability.book import Show
from mlproducer.testing.rabbitmq import installed

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TICK: Final = 0.1
"""Seconds between two pictures of a bar."""
_NARROW: Final = 92
"""Columns of the screen that the table needs."""
_HEADS: Final = dict(
    zip(
        MEASURES,
        (
            "accepted",
            "confirmed",
            "delivered",
            "in\nspool",
            "in\nDLQ",
            "lost",
            "duplicated",
            "time to\ndetect",
            "time to\nrecover",
        ),
        strict=True,
    )
)


def _known(name: str) -> str:
    if not chosen(name):
        raise typer.BadParameter(
            f"there is no scenario {name}; choose one of {', '.join(NAMES)}, or {' or '.join(GROUPS)}"
        )
    return name


def reliability(
    scenario: Annotated[
        str,
        typer.Argument(
            metavar="SCENARIO|all|cluster",
            parser=_known,
            help=f"One of {', '.join(NAMES)}; or cluster for those of a cluster, all for the others.",
        ),
    ] = "all",
    *,
    as_json: JsonOption = False,
) -> None:
    """Kill, pause and silence a private RabbitMQ and producers on purpose, and count what is lost.

    The broker is started for this from the machine's own rabbitmq-server and removed afterwards; no other broker and
    no spool of yours is touched. Exit code 0 only if nothing was lost and each scenario saw what it is about.
    """
    out = output(as_json=as_json)
    scenarios = chosen(scenario)
    if any(each.needs_broker for each in scenarios):
        _have_server(out)
    began = time.monotonic()
    reports = asyncio.run(_run(scenarios, out))
    if reports is None:
        raise typer.Exit(ExitCode.INTERRUPTED)
    _conclude(out, reports, time.monotonic() - began)
    if not all(report.ok for report in reports):
        raise typer.Exit(ExitCode.FAILED)


async def _run(scenarios: Sequence[Scenario], out: Output) -> list[Report] | None:
    """None if it was interrupted; then what was started is stopped."""
    reports: list[Report] = []
    with _cancelled_by_signals(out) as asked:
        try:
            if any(each.needs_broker for each in scenarios):
                out.say("[dim]starting a private RabbitMQ ...[/dim]")
            async with workshop(scenarios) as shop:
                reports += [await _one(shop, scenario, out) for scenario in scenarios]
        except asyncio.CancelledError:
            if not asked.is_set():
                raise
            return None
    return reports


async def _one(shop: Workshop, scenario: Scenario, out: Output) -> Report:
    _say(out, f"\n[bold]{scenario.name}[/bold]\n{escape(scenario.what)}")
    if scenario.changed:
        _say(out, f"[dim]shortened: {', '.join(each.words() for each in scenario.changed)}[/dim]")
    with _progress(out) as show:
        report = await shop.run(scenario, show)
    for line in report.plot:
        out.say(f"  {escape(line)}")
    for finding in report.findings:
        sign = "[green]✓[/green]" if finding.ok else "[red]✗[/red]"
        _say(out, f"{sign} {escape(finding.text)}")
    out.data(report.as_dict())
    return report


def _say(out: Output, text: str) -> None:
    """Wrapped between words on a terminal; a line stays one in a pipe."""
    if out.screen.is_terminal and not out.as_json:
        out.screen.print(text)
    else:
        out.say(text)


@contextmanager
def _progress(out: Output) -> Iterator[Show]:
    """A bar on a terminal, a line a step elsewhere. With --json, stdout is a program's: then on stderr, if watched."""
    console = out.notes if out.as_json else out.screen
    if not console.is_terminal:
        yield _lines(out)
        return
    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn(
            "{task.description}{task.fields[counts]}",
            markup=False,
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as progress:
        bar = progress.add_task("preparing", total=None, counts="")
        shown = (0, 0.0)

        def show(moment: Moment) -> None:
            nonlocal shown
            if moment.step == shown[0] and time.monotonic() - shown[1] < _TICK:
                return
            shown = (moment.step, time.monotonic())
            counts = f" ({moment.confirmed:,} of {moment.accepted:,} confirmed)" if moment.accepted else ""
            progress.update(bar, completed=moment.step - 1, total=moment.steps, description=moment.text, counts=counts)

        yield show


def _lines(out: Output) -> Show:
    said = 0

    def show(moment: Moment) -> None:
        nonlocal said
        if moment.step != said:
            said = moment.step
            out.say(f"  {moment.step}/{moment.steps} {escape(moment.text)}")

    return show


def _conclude(out: Output, reports: Sequence[Report], seconds: float) -> None:
    """The table, and the one line that counts."""
    if out.as_json:
        return
    out.say("")
    _table(out.screen, reports)
    if any(report.measure("duplicated") for report in reports):
        _say(
            out,
            "[dim]duplicated: an attempt whose confirm did not come may have landed all the same; it is made again, "
            "with the same task id.[/dim]",
        )
    gone = sum(int(report.measure("gone") or 0) for report in reports)
    if gone:
        _say(out, f"[dim]{plural(gone, 'task')}: confirmed, and gone with the queue that was deleted just then.[/dim]")
    failed = [report.scenario for report in reports if not report.ok]
    lost = sum(int(report.measure("lost") or 0) for report in reports)
    what = f"{plural(len(reports), 'scenario')}, {seconds:.0f} s"
    if failed:
        out.say(f"[red]✗ {plural(lost, 'task')} lost; look at {', '.join(failed)}[/red] ({what})")
    else:
        out.say(f"[green]✓ nothing was lost[/green] ({what})")


def _table(screen: Console, reports: Sequence[Report]) -> None:
    """As a table where it fits, else a paragraph a scenario."""
    if screen.width < _NARROW:
        for report in reports:
            cells = ", ".join(f"{name.replace('_', ' ')} {_cell(name, report.measure(name))}" for name in MEASURES)
            screen.print(f"[bold]{report.scenario}[/bold]: {cells}")
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("scenario", vertical="bottom", no_wrap=True)
    for place, head in enumerate(_HEADS.values()):
        air = len(_HEADS) - place <= screen.width - _NARROW  # one column each, the last ones first
        width = max(len(line) for line in head.split("\n")) + air
        table.add_column(head, justify="right", vertical="bottom", no_wrap=True, min_width=width)
    for report in reports:
        name = Text(report.scenario, style="" if report.ok else "red")
        table.add_row(name, *(_cell(name, report.measure(name)) for name in MEASURES))
    screen.print(table)
    screen.print()


def _cell(name: str, value: float | None) -> Text:
    """Nothing is never shown as 0: a scenario that has no such thing shows a dash."""
    if value is None:
        return Text("–", style="dim")
    if name.startswith("time_"):
        return Text(f"{value:.2f} s")
    return Text(f"{value:,}", style="bold red" if name == "lost" and value else "")


def _have_server(out: Output) -> None:
    """The machine's rabbitmq-server, installed first where that can be done. Raises: NoBroker, saying what to do."""
    if installed():
        return
    with tempfile.TemporaryDirectory() as folder:
        if not install_server(_checkout(), Path(folder) / "install.log", lambda text: out.note(f"{text} ...")):
            raise NoBroker(
                "this machine has no rabbitmq-server, and it cannot be installed without root or sudo: a broker that "
                "is killed and paused must be one of this machine's own. Try: sudo apt-get install rabbitmq-server"
            )


def _checkout() -> Path:
    """The project's folder, which holds the script that installs; the working directory if there is none."""
    here = Path.cwd()
    folders = (here, *here.parents, *Path(__file__).resolve().parents)
    return next((folder for folder in folders if (folder / "scripts" / "apt-install").is_file()), here)


@contextmanager
def _cancelled_by_signals(out: Output) -> Iterator[asyncio.Event]:
    """The first signal cancels the current task and sets the event; later ones change nothing: what was started is
    being stopped, and must not be left behind.
    """
    loop = asyncio.get_running_loop()
    current = asyncio.current_task()
    asked = asyncio.Event()

    def on_signal() -> None:
        if not asked.is_set() and current is not None:
            asked.set()
            out.note("stopping, and removing what was started ...")
            current.cancel()

    for each in _SIGNALS:
        loop.add_signal_handler(each, on_signal)
    try:
        yield asked
    finally:
        for each in _SIGNALS:
            loop.remove_signal_handler(each)
