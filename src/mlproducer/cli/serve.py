"""`mlproducer serve`: the HTTP service, until Ctrl-C or SIGTERM, which stop it in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Annotated

import typer

from mlproducer.cli.output import JsonOption, Output, output
from mlproducer.cli.streams import forget_stdout
from mlproducer.settings import Settings
from mlproducer.wiring import Producer, start_logging, start_tracing

_log = logging.getLogger(__name__)


def serve(
    *,
    host: Annotated[str | None, typer.Option(help="Address to bind; ML_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to bind, 0 for any; ML_PORT.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve others than this machine without API keys; ML_INSECURE.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Serve the HTTP API. Accepts tasks at once; while the broker is not there, they are spooled.

    Logs go to stderr (ML_LOG_LEVEL, ML_LOG_FORMAT); the address goes to stdout once requests are taken. Spans are
    exported as OpenTelemetry's own variables (OTEL_TRACES_EXPORTER …) say. With `mlproducer[fast]` installed it runs on
    uvloop and reads requests with httptools; the log says which.
    """
    given: dict[str, object] = {"ml_host": host, "ml_port": port, "ml_insecure": insecure or None}
    settings = Settings.load(**{name: value for name, value in given.items() if value is not None})
    lines = start_logging(settings)
    stop_tracing = start_tracing()
    try:
        with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
            runner.run(_serve(settings, output(as_json=as_json), lambda: lines.dropped))
    finally:
        stop_tracing()
        lines.end()


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    from mlproducer.http.fast import fastest_loop  # noqa: PLC0415  # keeps FastAPI out of the other commands' start

    return fastest_loop()


async def _serve(settings: Settings, out: Output, dropped: Callable[[], int]) -> None:
    from mlproducer.http.server import Service  # noqa: PLC0415  # keeps FastAPI out of the other commands' start

    producer = Producer(settings)
    producer.metrics.follow_log(dropped)
    service = Service(settings, producer)
    ready = asyncio.Event()

    async def announce() -> None:
        await ready.wait()
        _tell(out, {"url": service.url}, f"serving on {service.url} (Ctrl-C stops)")

    announcing = asyncio.create_task(announce())
    try:
        await service.run(ready=ready)
    finally:
        announcing.cancel()
    _tell(out, None, "stopped")


def _tell(out: Output, data: object, text: str) -> None:
    """A service goes on though nobody reads what it prints."""
    try:
        if data is not None:
            out.data(data)
        out.say(text)
    except (OSError, ValueError, SystemExit) as error:  # rich ends the program where the other end of a pipe is gone
        forget_stdout()
        _log.warning("standard output is closed: %s", type(error).__name__)
