"""`mlproducer rules`: the alerts and recorded expressions for Prometheus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlproducer.cli.output import JsonOption, fail, output, plural
from mlproducer.monitoring.dashboards import RUNBOOKS
from mlproducer.monitoring.rules import as_yaml, document

app = typer.Typer(help="Alert rules for Prometheus.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Typer would take a group's only command for the group itself."""


@app.command("export")
def export(
    file: Annotated[Path | None, typer.Argument(help="Where to write them; standard output without it.")] = None,
    *,
    runbooks: Annotated[
        str, typer.Option("--runbooks", metavar="URL", help="The page that the alerts' runbook_url leads to.")
    ] = RUNBOOKS,
    as_json: JsonOption = False,
) -> None:
    """Write the rules as YAML, for `rule_files` of Prometheus. `promtool check rules FILE` checks them."""
    out = output(as_json=as_json)
    rules = document(runbooks=runbooks)
    if file is None:
        out.data(rules)
        if not as_json:
            typer.echo(as_yaml(rules), nl=False)
        return
    try:
        file.write_text(as_yaml(rules), encoding="utf-8")
    except OSError as error:
        raise fail(f"{file} cannot be written: {error.strerror}") from error
    names = [rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    out.data({"file": str(file), "alerts": names, "runbooks": runbooks})
    out.say(f"{plural(len(names), 'alert')} written to {file}")
