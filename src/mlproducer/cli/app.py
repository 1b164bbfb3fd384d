"""The command line: one file a command group, and one place that turns errors into lines and exit codes.

Exit codes: 0 done; 1 something failed or was refused; 2 a wrong option or setting; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mlproducer.cli import (
    analytics,
    blobs,
    check,
    dashboards,
    dlq,
    doctor,
    publish,
    quickstart,
    reliability,
    retry,
    rules,
    serve,
    settings_cmd,
)
from mlproducer.cli.output import ExitCode, fail
from mlproducer.errors import MLProducerError, SettingsError


class ErrorsAreLines(TyperGroup):
    """Our own errors end a command with one line on stderr and an exit code, and never with a traceback."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  # typer's own signature, whose types moved between releases
        try:
            return super().invoke(ctx)
        except SettingsError as exc:
            raise fail(str(exc), ExitCode.USAGE) from exc
        except MLProducerError as exc:
            raise fail(str(exc)) from exc


app = typer.Typer(
    cls=ErrorsAreLines,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Gets machine-learning tasks to the workers behind RabbitMQ, and loses none that it accepted.",
    epilog="Exit codes: 0 done, 1 failed or refused, 2 wrong option or setting, 130 stopped by Ctrl-C.",
)


def _version(wanted: bool | None) -> None:  # noqa: FBT001  # typer calls it so
    if wanted:
        typer.echo(version("mlproducer"))
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = None,
) -> None:
    """Settings come from the environment and from .env; `mlproducer settings` lists them."""


app.command("quickstart")(quickstart.quickstart)
app.command("serve")(serve.serve)
app.command("publish")(publish.publish)
app.command("check")(check.check)
app.command("doctor")(doctor.doctor)
app.command("reliability")(reliability.reliability)
app.add_typer(retry.app, name="retry")
app.add_typer(dlq.app, name="dlq")
app.add_typer(analytics.app, name="analytics")
app.add_typer(blobs.app, name="blobs")
app.add_typer(dashboards.app, name="dashboards")
app.add_typer(rules.app, name="rules")
app.command("settings")(settings_cmd.settings)


def main() -> None:
    app()
