"""Logs: one line a fact, on the logger `mlproducer`.

As a library we only speak: handlers, levels and formats belong to the application, and neither its root logger nor
its structlog configuration is touched. `configure_logging` is for the service and the command line, which are
applications of their own.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO, cast

import structlog
from opentelemetry.trace import format_span_id, format_trace_id, get_current_span
from structlog.typing import EventDict

from mlproducer.redact import clean, redact, redact_text
from mlproducer.telemetry.log_queue import QUEUED, QueuedLines

LOGGER: Final = "mlproducer"
_FACTS: Final = "mlproducer_facts"
"""Where a record keeps the line's fields, for formatters that want more than its text."""

UNHEARD: Final = {
    "connection failed": "tasks are kept in the spool until the broker is back",
    "tasks stay in the spool": "",
    "tasks are gone with this process": "",
    "code of the application raised an error; no task is touched by it (said once a kind)": "",
}
"""What an application hears that set up no logging: the text of a line, and what to add to it."""


class LastWords(logging.Handler):
    """In the place of a NullHandler. An application that set up no logging hears nothing of what can wait; what it has
    to know (the broker is away, tasks stay) it hears once each, on stderr, by Python's handler of last resort.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = getattr(record, _FACTS, {}).get("event", "")
        if text not in UNHEARD or text in self._said or _is_heard(logging.getLogger(record.name)):
            return
        self._said.add(text)
        if logging.lastResort is not None:
            advice = "; ".join(
                filter(None, (UNHEARD[text], "said once; set up logging, such as logging.basicConfig()"))
            )
            words = f"mlproducer: {record.getMessage()} ({advice})"
            logging.lastResort.handle(logging.LogRecord(record.name, record.levelno, "", 0, words, None, None))


def _is_heard(logger: logging.Logger | None) -> bool:
    while logger is not None:
        if any(not isinstance(handler, LastWords | logging.NullHandler) for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


# Without a handler, Python would print all our warnings to the application's stderr.
logging.getLogger(LOGGER).addHandler(LastWords())


def event_logger(name: str = LOGGER) -> structlog.stdlib.BoundLogger:
    """A structlog logger over the standard library's logger `name`; its lines are redacted before anybody sees them."""
    wrapped = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, add_trace, redact_event, _to_record],
        wrapper_class=structlog.stdlib.BoundLogger,
        context_class=dict,
    )
    return cast("structlog.stdlib.BoundLogger", wrapped.bind())


def redact_event(_logger: object, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: see `redact`. Usable in an application's own chain too."""
    return {key: value if key == "exc_info" else redact(value, key) for key, value in event.items()}


def add_trace(_logger: object, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: `trace_id` and `span_id` of the current span, if any. Usable as `redact_event`."""
    return {**event, **_trace_ids()}


def _trace_ids() -> dict[str, str]:
    span = get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    return {"trace_id": format_trace_id(span.trace_id), "span_id": format_span_id(span.span_id)}


def _to_record(_logger: object, _method: str, event: EventDict) -> tuple[tuple[str], dict[str, Any]]:
    """The last processor: readable text for any handler, and the fields for ours."""
    rest = dict(event)
    text = str(rest.pop("event", ""))
    exc_info = rest.pop("exc_info", None)
    words = " ".join(f"{key}={_shown(value)}" for key, value in rest.items())
    kwargs: dict[str, Any] = {"extra": {_FACTS: {"event": text, **rest}}}
    if exc_info:
        clean(exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1])  # for handlers that are not ours
        kwargs["exc_info"] = exc_info
    return (f"{text} {words}".rstrip(),), kwargs


def _shown(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(c in text for c in " =\"'") else text


class LineFormatter(logging.Formatter):
    """Renders our records and those of others (uvicorn, asyncio) alike, redacted."""

    def __init__(self, form: Literal["console", "json"], *, colors: bool) -> None:
        super().__init__()
        self._render = (
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
            if form == "json"
            else structlog.dev.ConsoleRenderer(
                colors=colors, pad_event_to=0, sort_keys=False, exception_formatter=structlog.dev.plain_traceback
            )
        )

    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, _FACTS, None) or {"event": redact(record.getMessage()), **_trace_ids()}
        line: MutableMapping[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **facts,
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = redact_text(self.formatException(record.exc_info))
        return str(self._render(None, record.levelname.lower(), line))


class _OwnHandler(logging.StreamHandler[TextIO]):
    """So that a second `configure_logging` finds and replaces what the first one set."""


PROGRAM: Final = (LOGGER, "uvicorn", "asyncio", "opentelemetry", "py.warnings")
"""The loggers that a program of our own writes."""


def configure_logging(
    level: Literal["debug", "info", "warning", "error"] = "info",
    format: Literal["console", "json"] = "console",  # noqa: A002  # the setting's own word
    stream: TextIO | None = None,
    *,
    names: tuple[str, ...] = PROGRAM,
) -> None:
    """Send the loggers `names` to `stream` (None: stderr). For programs of our own only; may be called again.

    They do not propagate any more, so no line comes twice; the root logger is left as it is. Who logs waits for who
    reads the stream: a service takes `queue_logging`.
    """
    target = sys.stderr if stream is None else stream
    handler = _OwnHandler(target)
    handler.setFormatter(LineFormatter(format, colors=target.isatty()))
    _put(handler, level, names)


def queue_logging(
    level: Literal["debug", "info", "warning", "error"] = "info",
    format: Literal["console", "json"] = "console",  # noqa: A002  # the setting's own word
    descriptor: int = 2,
    *,
    limit: int = QUEUED,
) -> QueuedLines:
    """As `configure_logging`, through a queue: nobody waits for who reads the descriptor. Call its `end` at the end."""
    lines = QueuedLines(descriptor, LineFormatter(format, colors=os.isatty(descriptor)), limit=limit)
    _put(lines, level, PROGRAM)
    return lines


def _put(handler: logging.Handler, level: str, names: tuple[str, ...]) -> None:
    for name in names:
        logger = logging.getLogger(name)
        for old in [h for h in logger.handlers if isinstance(h, _OwnHandler | QueuedLines)]:
            logger.removeHandler(old)
        logger.addHandler(handler)
        logger.setLevel(level.upper())
        logger.propagate = False
