"""A URL in its parts (RFC 3986), by a reading that drops nothing.

The readers at hand (`urlsplit`, those of the stores' clients) take what they can: after an unescaped `#` the rest is a
fragment that nobody looks at, and with an unescaped `/` or `?` in a password the user becomes the host. So this one
refuses what can be read in two ways, and says which character to write as which escape. It quotes nothing of a URL that
it could not read: what stands where in it is not known, and some of it is a password.

Raises, everywhere: BadUrl, whose words a caller puts after the name of the setting.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv6Address
from typing import Final
from urllib.parse import quote, unquote

from mlproducer.redact import is_secret, remember

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HOST: Final = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<name>[^\[\]:]*))(?::(?P<port>[0-9]*))?")
_NAME: Final = re.compile(r"[^\s/?#@,;:\[\]\\]+")
_PARAMETER: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,40}")
_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_BLANK: Final = re.compile(r"[\x00-\x20\x7f]")
_BETWEEN: Final = re.compile(r"\s*[,;][\s,;]*(?=[A-Za-z][A-Za-z0-9+.-]*://)")
"""A comma or semicolon before the next scheme: within a password it is a character as others are."""
_PATHS: Final = ("/", "sqlite:///", "file:///", "memory://")
_SEPARATOR: Final = re.compile(r"[,;]")
_HIGHEST_PORT: Final = 65_535
TAKE_WRITES: Final = ("any", "primary", "read-write")
"""What PostgreSQL's `target_session_attrs` may be: of several servers, the one that takes writes is meant anyway."""

ESCAPES: Final = "in a user name or password / is written %2F, ? %3F, # %23, @ %40, : %3A and % %25"


class BadUrl(ValueError):
    """The words name the part that is wrong, and nothing that stands in it."""


@dataclass(frozen=True, slots=True)
class Host:
    """`name` is decoded, an IPv6 address without its brackets; empty where the URL names none."""

    name: str
    port: int | None = None

    def shown(self, default_port: int | None) -> str:
        """`host:port`, for logs and people."""
        host = f"[{self.name}]" if ":" in self.name else self.name
        port = self.port or default_port
        return host if port is None else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Url:
    """`user` and `password` are decoded, None where the URL has none. `path` is as it stands, slash first. A parameter
    may come several times: who reads them says which may.
    """

    scheme: str
    user: str | None
    password: str | None = field(repr=False)
    hosts: tuple[Host, ...]
    path: str
    query: tuple[tuple[str, str], ...] = field(repr=False)

    @property
    def host(self) -> Host:
        """The only host, or the first."""
        return self.hosts[0]

    def parameters(self, known: Collection[str], *, several: Collection[str] = ()) -> Mapping[str, str]:
        """The parameters by name, the last of those that may come several times."""
        names = [name for name, _ in self.query]
        for name in names:
            if name not in known:
                told = f"the parameter `{name}`" if _PARAMETER.fullmatch(name) else "a parameter"
                others = f"there are {', '.join(known)}" if known else "it takes none"
                raise BadUrl(f"{told} of its query is unknown; {others}")
            if names.count(name) > 1 and name not in several:
                raise BadUrl(f"the parameter `{name}` is given twice")
        return dict(self.query)


def read_url(text: str, schemes: Collection[str], *, like: str, several_hosts: bool = False) -> Url:
    """`like` is an example for who wrote something else altogether."""
    text = text.strip()
    if _BLANK.search(text):
        raise BadUrl("there is a blank or a control character in it; write a blank as %20")
    found = _SCHEME.match(text)
    if found is None or found[1].lower() not in schemes:
        raise BadUrl(f"it must look like {like}")
    rest = text[found.end() :]
    if "#" in rest:
        raise BadUrl(f"there is an unescaped # in it: {ESCAPES}")
    before_query, _, query = rest.partition("?")
    authority, slash, path = before_query.partition("/")
    if "@" in path or "@" in query:
        raise BadUrl(f"there is a / or ? before an @ in it, so that nobody can tell where the host begins: {ESCAPES}")
    login, _, places = authority.rpartition("@")
    if "@" in login and _SEPARATOR.search(login):
        raise BadUrl(f"there are two @ in it, and a comma or semicolon: several URLs are whole each; and {ESCAPES}")
    user, colon, password = login.partition(":")
    read = Url(
        found[1].lower(),
        decoded(user, "user name") if "@" in authority else None,
        decoded(password, "password") if colon else None,
        tuple(_host(place) for place in (places.split(",") if several_hosts else [places])),
        slash + path,
        tuple(_parameters(query)),
    )
    remember(read.password, password, *(value for name, value in read.query if is_secret(name)))
    return read


def several(text: str) -> list[str]:
    """The URLs of a list, separated by commas or semicolons."""
    return [url for url in _BETWEEN.split(text.strip().strip(",;").strip()) if url]


def shown(text: str) -> str:
    """One URL or several without passwords and parameters, for people and logs; `***` where nobody can tell what is
    what. A path is shown as it is, and so is the URL of a file.
    """
    return ",".join(map(_shown, several(text)))


def _shown(text: str) -> str:
    if text.startswith(_PATHS):
        return text
    scheme = _SCHEME.match(text)
    try:
        url = read_url(text, (scheme[1].lower(),) if scheme else (), like="", several_hosts=True)
    except BadUrl:
        return "***"
    password = "" if url.password is None else ":***"
    login = f"{quote(url.user or '')}{password}@" if url.user is not None or password else ""
    hosts = ",".join(host.shown(None) for host in url.hosts)
    return f"{url.scheme}://{login}{hosts}{url.path}{'?***' if url.query else ''}"


def decoded(text: str, part: str) -> str:
    """Without its percent escapes, each of which must be one."""
    if _ESCAPE.search(text):
        raise BadUrl(f"a % in its {part} begins no escape; a % itself is written %25")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise BadUrl(f"the escapes in its {part} are no UTF-8") from None


def number(text: str, name: str, least: int, most: int) -> int:
    """The value of a parameter that is a whole number."""
    if not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) <= most:
        raise BadUrl(f"`{name}` is a whole number from {least} to {most}")
    return int(text)


def choice(text: str, name: str, choices: Collection[str]) -> str:
    """The value of a parameter that is one of a few words."""
    if text not in choices:
        raise BadUrl(f"`{name}` is {' or '.join(choices)}")
    return text


def _host(place: str) -> Host:
    found = _HOST.fullmatch(place)
    if found is None:
        raise BadUrl(
            f"its host and port cannot be read: they are written host:5672, or [::1]:5672 for IPv6; and {ESCAPES}"
        )
    port = int(found["port"]) if found["port"] else None
    if port is not None and not 0 < port <= _HIGHEST_PORT:
        raise BadUrl(f"its port is a number from 1 to {_HIGHEST_PORT}")
    if found["v6"] is not None:
        return Host(_v6(decoded(found["v6"], "host")), port)
    name = decoded(found["name"], "host")
    # An escaped slash is the folder of a Unix socket, which libpq takes for a host.
    if name and not name.startswith("/") and not _NAME.fullmatch(name):
        raise BadUrl(f"its host is no name of a host; and {ESCAPES}")
    return Host(name, port)


def _v6(text: str) -> str:
    try:
        IPv6Address(text)
    except AddressValueError:
        raise BadUrl("what stands in the brackets of its host is no IPv6 address") from None
    return text


def _parameters(query: str) -> Iterable[tuple[str, str]]:
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        yield decoded(name, "query"), decoded(value, "query")
