"""The command line: one file a command group, and one place that turns errors into lines and exit codes.

Exit codes: 0 done; 1 something failed or was refused; 2 a wrong option or setting; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any, Final, TextIO, cast

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from mlproducer.cli.output import ExitCode, Redacting, fail
from mlproducer.cli.streams import hold_standard_streams
from mlproducer.errors import MLProducerError, SettingsError
from mlproducer.redact import redact_known, redact_text

COMMANDS: Final = {
    "quickstart": "Start a broker (if none answers), the service and a real worker, and send real texts through all of "
    "them.",
    "serve": "Serve the HTTP API. Accepts tasks at once; while the broker is not there, they are spooled.",
    "publish": "Publish NDJSON, one task (or, with --share, one share) a line, from a file or standard input.",
    "drain": "Publish what is due in the spool, and end: after an outage, before a machine goes away, or from cron.",
    "check": "Say whether the broker can be reached with these settings, and if not, why. Exit code 0 or 1.",
    "doctor": "Look at broker, queues, workers, envelopes, spool and keys before the first task; change nothing at the "
    "broker.",
    "reliability": "Kill, pause and silence a private RabbitMQ and producers on purpose, and count what is lost.",
    "settings": "Show every setting: environment name, value, where it comes from. Secrets are masked.",
    "retry": "The retry queue: tasks that wait in the spool.",
    "dlq": "The dead letter queue: tasks that need a person.",
    "analytics": "Figures by task type, costs and budgets, of all instances on the spool.",
    "blobs": "The store of large payloads (ML_BLOB_URL).",
    "dashboards": "Dashboards for Grafana.",
    "rules": "Alert rules for Prometheus.",
}
"""Name → what `--help` lists. Module `mlproducer.cli.<name>` holds a function of that name, or the `app` of a group."""


def load(name: str) -> Any:  # noqa: ANN401  # typer's copy of click is private, and so are its types
    """The command `name` of `COMMANDS`, from its module."""
    module = import_module(f"mlproducer.cli.{name}")
    command: Any
    if hasattr(module, "app"):
        command = get_group(module.app)
    else:
        alone = typer.Typer(add_completion=False)
        alone.command()(getattr(module, name))
        command = get_command(alone)
    command.name = name
    return command


class Commands(TyperGroup):
    """Imports a command when it is called, and not to list it; its errors end in one line and an exit code.

    All of them together bring FastAPI, SQLAlchemy and more: seconds of a slow machine, for each call of a shell script.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401  # as above
        """The command that runs; `--help` and completion read the list below."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, load(str(name)), rest

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  # as above
        """Our own errors end a command with one line on stderr and an exit code, and never with a traceback."""
        try:
            return super().invoke(ctx)
        except SettingsError as exc:
            raise fail(str(exc), ExitCode.USAGE) from exc
        except MLProducerError as exc:
            raise fail(str(exc)) from exc


app = typer.Typer(
    cls=Commands,
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


def _listed() -> None:
    """Stands in the list for a command that is loaded when it is called."""


for _name, _line in COMMANDS.items():
    app.command(_name, help=_line)(_listed)


def main() -> None:
    hold_standard_streams()
    # A command says itself what its user has to know, so the library's last words to who set up no logging are not for
    # it. A handler that takes nothing tells them so.
    logging.getLogger("mlproducer").addHandler(logging.Handler(logging.CRITICAL + 1))
    # What goes past `cli.output`: a traceback of something nobody thought of, a warning, a thread's last words.
    sys.stdout = cast("TextIO", Redacting(sys.stdout, redact_known))  # the results may hold words of the user's own
    sys.stderr = cast("TextIO", Redacting(sys.stderr, redact_text))
    app()
