"""`mlproducer analytics`: what was accepted, delivered, worked and spent. Beside a running service, or with none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Annotated, TypeVar

import typer

from mlproducer.analytics.reading import Analytics
from mlproducer.analytics.views import view
from mlproducer.cli.output import JsonOption, Output, output, plural, span, when
from mlproducer.cli.store import looking_at
from mlproducer.core.budget import Budget, Spent
from mlproducer.core.counting import Spread
from mlproducer.core.figures import Cost, Costs, Figures, Summary
from mlproducer.core.results import plain
from mlproducer.settings import Settings
from mlproducer.wiring import analytics_for

Answer = TypeVar("Answer")

Hours = Annotated[int, typer.Option(min=1, max=720, help="The running hour of UTC and those before it.")]

app = typer.Typer(
    help="Figures by task type, costs and budgets, of all instances on the spool.",
    no_args_is_help=True,
)


@app.command("summary")
def summary(*, hours: Hours = 24, as_json: JsonOption = False) -> None:
    """Show what was accepted, delivered and worked, by task type."""
    out = output(as_json=as_json)
    found = _ask(lambda analytics: analytics.summary(hours))
    out.data(view(found))
    _show_summary(out, found)


@app.command("costs")
def costs(*, hours: Hours = 24, as_json: JsonOption = False) -> None:
    """Show what tasks cost, by task type and model, as far as workers reported it."""
    out = output(as_json=as_json)
    found = _ask(lambda analytics: analytics.costs(hours))
    out.data(view(found))
    _show_costs(out, found)


@app.command("budget")
def budget(*, as_json: JsonOption = False) -> None:
    """Show what the running hour and day of UTC cost, against ML_BUDGET_HOURLY and ML_BUDGET_DAILY."""
    out = output(as_json=as_json)
    found = _ask(lambda analytics: analytics.budget())
    out.data(view(found))
    _show_budget(out, found)


def _ask(question: Callable[[Analytics], Awaitable[Answer]]) -> Answer:
    async def ask(settings: Settings) -> Answer:
        async with looking_at(settings) as store:
            return await question(analytics_for(settings, store))

    return asyncio.run(ask(Settings.load()))


def _show_summary(out: Output, found: Summary) -> None:
    if not found.by_type:
        out.say(f"Nothing happened in the last {plural(found.window.hours, 'hour')}.")
        return
    columns = ("type", "accepted", "confirmed", "dead", "pending", "ratio", "retries", "confirm p50 / p99")
    more = ("succeeded", "failed", "work p50 / p99", "cost")
    rows = [_row(name, figures) for name, figures in (*found.by_type.items(), ("all", found.total))]
    out.table(f"last {plural(found.window.hours, 'hour')}, since {when(found.window.since)}", (*columns, *more), rows)


def _row(name: str, figures: Figures) -> tuple[object, ...]:
    return (
        name,
        f"{figures.accepted:,}",
        f"{figures.confirmed:,}",
        f"{figures.dead_lettered:,}",
        f"{figures.pending:,}",
        _ratio(figures.delivery_ratio),
        f"{figures.retries:,}",
        _spread(figures.accept_to_confirm),
        f"{figures.succeeded:,}",
        f"{figures.failed:,}",
        _spread(figures.work),
        plain(figures.cost),
    )


def _ratio(ratio: float | None) -> str:
    """Rounded, but never up to 100 %: that is for when nothing is missing."""
    if ratio is None:
        return "–"
    return f"{ratio if ratio == 1 else min(ratio, 0.9999):.2%}"


def _spread(spread: Spread) -> str:
    return "–" if spread.p50 is None or spread.p99 is None else f"{span(spread.p50)} / {span(spread.p99)}"


def _show_costs(out: Output, found: Costs) -> None:
    if not found.total.reports:
        out.say(f"No worker reported a cost in the last {plural(found.window.hours, 'hour')}.")
        return
    groups: dict[str, Cost] = {**found.by_type, **found.by_model, "all": found.total}
    rows = [(name, f"{cost.reports:,}", _money(cost.average), plain(cost.cost)) for name, cost in groups.items()]
    title = f"costs of the last {plural(found.window.hours, 'hour')}, since {when(found.window.since)}"
    out.table(title, ("type / model", "reports", "average", "cost"), rows)


def _show_budget(out: Output, found: Budget) -> None:
    columns = ("budget", "state", "spent", "limit", "left", "share", "begins anew")
    out.table(f"budget: {found.state}", columns, [_budget_row("hour", found.hourly), _budget_row("day", found.daily)])


def _budget_row(name: str, spent: Spent) -> tuple[object, ...]:
    share = "–" if spent.share is None else f"{spent.share:.0%}"
    amounts = (_money(each) for each in (spent.spent, spent.limit, spent.left))
    return name, spent.state, *amounts, share, when(spent.resets_at)


def _money(amount: Decimal | None) -> str:
    return "–" if amount is None else plain(amount)
