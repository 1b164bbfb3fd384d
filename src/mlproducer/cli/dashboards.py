"""`mlproducer dashboards`: what Grafana needs to show a producer."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

import typer

from mlproducer.cli.output import JsonOption, fail, output
from mlproducer.monitoring import provisioning
from mlproducer.monitoring.dashboards import DATASOURCE, RUNBOOKS, dashboards

MOUNTED: Final = PurePosixPath("/etc/grafana")
"""Where Grafana looks for its provisioning, and so where an exported folder goes."""

app = typer.Typer(help="Dashboards for Grafana.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Typer would take a group's only command for the group itself."""


@app.command("export")
def export(
    folder: Annotated[Path, typer.Argument(help="Where to write them; made if it is not there.")] = Path(),
    *,
    datasource: Annotated[
        str, typer.Option("--datasource", metavar="UID", help="The uid of the Prometheus to ask, as Grafana knows it.")
    ] = DATASOURCE,
    runbooks: Annotated[
        str, typer.Option("--runbooks", metavar="URL", help="The page that the panels' runbook links lead to.")
    ] = RUNBOOKS,
    provisioned: Annotated[
        bool,
        typer.Option("--provisioning", help="Also what Grafana reads at its start; FOLDER becomes its /etc/grafana."),
    ] = False,
    prometheus: Annotated[
        str, typer.Option("--prometheus", metavar="URL", help="With --provisioning: where Grafana finds Prometheus.")
    ] = provisioning.PROMETHEUS,
    as_json: JsonOption = False,
) -> None:
    """Write the dashboards as JSON, to import by hand or to provision. Files of the same name are replaced."""
    out = output(as_json=as_json)
    below = "dashboards/" if provisioned else ""
    texts = {
        f"{below}{board['uid']}.json": json.dumps(board, indent=1, ensure_ascii=False) + "\n"
        for board in dashboards(datasource=datasource, runbooks=runbooks)
    }
    if provisioned:
        found = provisioning.files(datasource=datasource, prometheus=prometheus, dashboards=MOUNTED / "dashboards")
        texts |= {f"provisioning/{name}": text for name, text in found.items()}
    written = [_write(folder / name, text) for name, text in texts.items()]
    out.data({"files": written, "datasource": datasource, "runbooks": runbooks})
    for name in written:
        out.say(name)


def _write(path: Path, text: str) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise fail(f"{path} cannot be written: {error.strerror}") from error
    return str(path)
