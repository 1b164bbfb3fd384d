"""One task of a queue, whole, for people: its fields, its history, and its message."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.text import Text

from mlproducer.cli.output import Output, when
from mlproducer.rows import History


def show_whole(out: Output, fields: Iterable[tuple[str, str]], history: History, message: dict[str, Any]) -> None:
    for name, value in fields:
        out.screen.print(Text.assemble((f"{name:<9}", "bold"), " ", value), soft_wrap=True)
    if history:
        columns = ("time", "outcome", "code", "text")
        rows = [(when(each.at), each.outcome, each.code or "–", each.text or "–") for each in history]
        out.screen.print()
        out.table("history", columns, rows, last="fold")
    else:
        out.screen.print(Text.assemble((f"{'history':<9}", "bold"), " no attempt yet"))
    out.screen.print(Text("message", style="bold"))
    out.screen.print_json(data=message, default=str)
