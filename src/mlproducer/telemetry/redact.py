"""Keep secrets out of log lines: passwords in URLs, and values whose key says that they are secret.

It masks too much rather than too little: a password with an unescaped `@` or `/` in a URL is masked to the last `@`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

MASK: Final = "***"
_MAX_LEVELS: Final = 6

_WORDS: Final = (
    "pass(?:word|wd|phrase)?|secret|api[-_]?keys?|access[-_]?key|private[-_]?key|token|authorization|cookie"
    "|credentials?|signature"
)
_SECRET_KEY: Final = re.compile(rf"(?:^|[-_.]|\b)(?:{_WORDS})(?:$|[-_.]|\b)", re.IGNORECASE)
_URL_PASSWORD: Final = re.compile(r"(?P<head>\b[a-z][a-z0-9+.-]*://[^\s:/@\"'<>]*):[^\s\"'<>]*@", re.IGNORECASE)
_ASSIGNED: Final = re.compile(
    rf"(?P<head>\b[\w-]*(?:{_WORDS})(?:=|[\"']\s*:)\s*[\"']?)(?:(?:bearer|basic)\s+)?[^\s\"'&;,]+", re.IGNORECASE
)
"""`password=…` and `"password": "…"`; not `wrong password: …`, which is an error message."""
_HEADER: Final = re.compile(
    r"(?P<head>\b(?:authorization|cookie|x-api-key)\s*:\s*)(?![\"'])[^\r\n\"',]+", re.IGNORECASE
)
_BEARER: Final = re.compile(r"(?P<head>\bbearer\s+)[\w.~+/=-]{16,}", re.IGNORECASE)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def redact_text(text: str) -> str:
    """`text` with passwords of URLs, `password=…` and `Bearer …` masked."""
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\g<head>:{MASK}@", text)
    for pattern in (_ASSIGNED, _HEADER, _BEARER):
        text = pattern.sub(rf"\g<head>{MASK}", text)
    return text


def redact(value: object, key: str = "", level: int = 0) -> object:
    """`value` as a log line may show it; `key` is the name that it goes by.

    Control characters are escaped as well, so that no value can start a line of its own.
    """
    if key and value is not None and _SECRET_KEY.search(key):
        return MASK
    if value is None or isinstance(value, bool | int | float):
        return value
    return _CONTROL.sub(_escaped, redact_text(value)) if isinstance(value, str) else _redact_rest(value, level)


def _redact_rest(value: object, level: int) -> object:
    if level >= _MAX_LEVELS:
        return "..."
    match value:
        case bytes() | bytearray():
            return redact(bytes(value).decode("utf-8", "backslashreplace"))
        case Mapping():
            return {str(name): redact(item, str(name), level + 1) for name, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [redact(item, "", level + 1) for item in value]
        case _:
            return redact(str(value))


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
