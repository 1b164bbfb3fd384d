"""Keep secrets out of everything that is shown: errors, log lines, answers, spans, what a command prints.

Two ways, one behind the other:

- What is known to be secret (`remember`) is masked wherever it stands, as it is and in the forms that it travels in:
  with percent escapes, in JSON, in a `repr`, in the login of an HTTP header. Whoever reads a secret, be it of a
  setting, of a URL or of the environment, says so once.
- What looks like one is masked too: passwords in URLs, `password=…`, values whose key says that they are secret. Too
  much rather than too little: a password with an unescaped `@` or `/` in a URL is masked to the last `@`.

Each error of ours is redacted as it is made, with the one that it came from (`errors.MLProducerError`): no face, no log
and no application ever holds another. What is left, such as an error that nobody thought of, is redacted where it is
shown.

The known secrets are the one thing here that a process shares: an error is made where nobody knows of any settings.
"""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus

MASK: Final = "***"
_MAX_LEVELS: Final = 6
SHORTEST: Final = 6
"""Characters. What is shorter is a part of ordinary words, and masked only where it looks like a secret."""
_PLACEHOLDER: Final = "password"
"""Our own words have it in examples and hints: to mask it there would tell what it is."""

_WORDS: Final = (
    "pass(?:word|wd|phrase)?|secret|api[-_]?keys?|access[-_]?key|private[-_]?key|token|authorization|cookie"
    "|credentials?|signature"
)
_SECRET_KEY: Final = re.compile(rf"(?:^|[-_.]|\b)(?:{_WORDS})(?:$|[-_.]|\b)", re.IGNORECASE)
_URL_PASSWORD: Final = re.compile(
    r"(?P<head>\b[a-z][a-z0-9+.-]*://[^\s:/@\"'<>]*):(?!password@)[^\s\"'<>]*@", re.IGNORECASE
)
_ASSIGNED: Final = re.compile(
    rf"(?P<head>\b[\w-]*(?:{_WORDS})(?:=|[\"']\s*:)\s*[\"']?)(?:(?:bearer|basic)\s+)?(?:(?<=')[^']+|(?<=\")[^\"]+|[^\s\"'&;,]+)",
    re.IGNORECASE,
)
"""`password=…` and `"password": "…"`; not `wrong password: …`, which is an error message."""
_HEADER: Final = re.compile(
    r"(?P<head>\b(?:authorization|cookie|x-api-key)\s*:\s*)(?![\"'])[^\r\n\"',]+", re.IGNORECASE
)
_BEARER: Final = re.compile(r"(?P<head>\bbearer\s+)[\w.~+/=-]{16,}", re.IGNORECASE)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class _Known:
    """Secrets of this process, never forgotten: an old password may still stand in an error that comes late."""

    def __init__(self) -> None:
        self._forms: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secrets: Iterable[str]) -> None:
        long = (each for each in secrets if len(each) >= SHORTEST and each != _PLACEHOLDER)
        more = frozenset(form for each in long for form in _forms(each))
        if not more <= self._forms:
            # Replaced as a whole, so that a thread that redacts meanwhile finds the old or the new ones.
            self._forms |= more
            longest_first = sorted(self._forms, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def mask(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub(MASK, text)


_known: Final = _Known()


def remember(*secrets: str | None) -> None:
    """From now on these are masked wherever they would be shown. Those under `SHORTEST` characters are not."""
    _known.add(secret for secret in secrets if secret)


def remember_environment(environment: Mapping[str, str]) -> None:
    """The values of all variables whose names say that they are secret, such as `AWS_SECRET_ACCESS_KEY`."""
    remember(*(value for name, value in environment.items() if is_secret(name)))


def _forms(secret: str) -> set[str]:
    escaped = {quote(secret, safe=""), quote(secret), quote_plus(secret)}
    written = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
    lower = {re.sub("%..", lambda found: found[0].lower(), form) for form in escaped}
    raw = secret.encode("utf-8", "surrogatepass")
    return {secret, html.escape(secret), b64encode(raw).decode()} | escaped | lower | written


def clean(error: BaseException | None) -> None:
    """Mask secrets in an error and in all that it came from. Errors keep their texts in `args`, which are replaced; one
    whose text holds a secret all the same is no longer told as what another came from.
    """
    chain = list(_chain(error))
    for each in chain:
        _clean_args(each)
    for each in chain:
        for link in ("__cause__", "__context__"):
            came_from = getattr(each, link)
            if came_from is not None and not _is_clean(came_from):
                setattr(each, link, None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += (each.__cause__, each.__context__)
            if isinstance(each, BaseExceptionGroup):
                waiting += each.exceptions


def _is_clean(error: BaseException) -> bool:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # of a class of somebody else's
        return False
    return redact_text(text) == text


def _clean_args(error: BaseException) -> None:
    args = tuple(redact_text(each) if isinstance(each, str) else each for each in error.args)
    if args != error.args:
        error.args = args


def redact_known(text: str) -> str:
    """`text` with what is known to be secret masked, and nothing else: for what is content, where a word that looks
    like a secret may be one of the user's own.
    """
    return _known.mask(text)


def redact_text(text: str) -> str:
    """`text` with known secrets, passwords of URLs, `password=…` and `Bearer …` masked."""
    text = _known.mask(text)
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\g<head>:{MASK}@", text)
    for pattern in (_ASSIGNED, _HEADER, _BEARER):
        text = pattern.sub(rf"\g<head>{MASK}", text)
    return text


def masked(value: Any) -> Any:  # noqa: ANN401  # of any kind
    """An answer of JSON values, with what is known to be secret masked in its texts; its keys are ours."""
    match value:
        case str():
            return _known.mask(value)
        case dict():
            return {key: masked(item) for key, item in value.items()}
        case list() | tuple():
            return [masked(item) for item in value]
        case _:
            return value


def is_secret(name: str) -> bool:
    """Whether what goes by this name is a secret, such as `password` or `X-Api-Key`."""
    return _SECRET_KEY.search(name) is not None


def redact(value: object, key: str = "", level: int = 0) -> object:
    """`value` as a log line may show it; `key` is the name that it goes by.

    Control characters are escaped as well, so that no value can start a line of its own.
    """
    if key and value is not None and is_secret(key):
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
