"""Loggers whose lines hold no secret, whoever's handler shows them: an application has handlers of its own."""

from __future__ import annotations

import logging

from mlproducer.redact import clean, redact_text


class _Redacted(logging.Filter):
    """Of the record itself, so that all handlers see the same. Of an error, all that it came from as well."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact_text(record.getMessage()), None
        if record.exc_info:
            clean(record.exc_info[1])
        return True


_REDACTED = _Redacted()


def get_logger(name: str) -> logging.Logger:
    """The standard library's logger of this name, redacted. A filter that is there already is not added again."""
    logger = logging.getLogger(name)
    logger.addFilter(_REDACTED)
    return logger
