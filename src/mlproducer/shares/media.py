r"""May a worker be told to fetch this address? Decided from the address alone.

A share comes from outside, and the worker that fetches its media sits inside, next to databases and to the cloud's
metadata service: an address that leads inwards is refused (server-side request forgery, CWE-918). Forms that
different parsers read differently (`http://0x7f.1/`, `http://a\@b/`) are refused whatever they mean.

No name is looked up here: the check is pure, and a name may resolve to something else by the time of the fetch. A
public name can point to a private address, so **the worker that fetches must check what the name resolved to**, and
every redirect, again.
"""

from __future__ import annotations

import re
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from mlproducer.errors import InvalidTask

FIELD: Final = "media_url"
WEB_SCHEMES: Final = frozenset({"http", "https"})
STORE_SCHEMES: Final = frozenset({"s3", "gs", "az"})
"""Object stores: what follows is a bucket or container, which the worker's own client and credentials resolve."""
MAX_URL: Final = 8192

_CLOSED_V4: Final = tuple(
    IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this network; 0.0.0.0 reaches the host itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' shared space; one cloud's metadata service
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's virtual host: public by its number, internal by its use
        "169.254.0.0/16",  # link-local; most clouds' metadata service
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",  # documentation, as the two below
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
"""The blocks of the IANA special-purpose registry that are not globally reachable. Written out, because what
`ipaddress.is_private` says differs between patch releases of Python."""

_OPEN_V6: Final = IPv6Network("2000::/3")
"""All that IANA has given out as global unicast. IPv4-mapped (::ffff:0:0/96), NAT64 (64:ff9b::/96), loopback,
link-local, unique local and multicast addresses lie outside."""
_CLOSED_V6: Final = tuple(
    IPv6Network(block)
    for block in (
        "2001::/23",  # protocol assignments: Teredo and others that carry an IPv4 address inside
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address inside
        "3fff::/20",  # documentation
    )
)

_INTERNAL_ENDINGS: Final = frozenset(
    {"localhost", "localdomain", "local", "internal", "intranet", "private", "corp", "home", "lan", "svc"}
)
_INTERNAL_ZONES: Final = (".home.arpa",)

_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_BRACKETED: Final = re.compile(r"\[[0-9a-f:.]+\](?::[0-9]*)?", re.IGNORECASE)
_BUCKET: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,220}[a-z0-9])?", re.IGNORECASE)
_NOT_IN_URL: Final = re.compile(r"[\x00-\x20\x7f-\xa0\\<>\"\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff]")
_MAX_NAME: Final = 253


class MediaKind(StrEnum):
    AUDIO = "audio"
    VIDEO = "video"
    OTHER = "other"
    """Certainly neither: an image, a text."""
    UNKNOWN = "unknown"


_AUDIO: Final = frozenset(
    {"aac", "aif", "aiff", "amr", "flac", "m4a", "m4b", "mka", "mp3", "oga", "ogg", "opus", "wav", "weba", "wma"}
)
_VIDEO: Final = frozenset(
    {"3gp", "avi", "flv", "m3u8", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ogv", "webm", "wmv"}
)
_ENDINGS: Final = {**dict.fromkeys(_AUDIO, MediaKind.AUDIO), **dict.fromkeys(_VIDEO, MediaKind.VIDEO)}
_NEITHER: Final = frozenset({"image", "text", "font", "model", "message", "multipart"})


def media_kind(media_type: str | None, url: str) -> MediaKind:
    """By `media_type` (`audio`, `video/mp4`), or by the ending of the path where that says nothing."""
    top = (media_type or "").split(";")[0].strip().lower().split("/")[0]
    if top in {MediaKind.AUDIO, MediaKind.VIDEO}:
        return MediaKind(top)
    if top in _NEITHER:
        return MediaKind.OTHER
    name = unquote(re.split(r"[?#]", url, maxsplit=1)[0]).rpartition("/")[2]
    _, dot, ending = name.rpartition(".")
    return _ENDINGS.get(ending.lower(), MediaKind.UNKNOWN) if dot else MediaKind.UNKNOWN


def check_media_url(url: str, *, allow_private: bool = False) -> None:
    """Return if a worker may fetch `url`.

    `allow_private` (ML_ALLOW_PRIVATE_MEDIA) opens private addresses and internal names; schemes, user names in the
    URL and ambiguous forms stay refused.

    Raises: InvalidTask, whose `field` is `media_url` and whose message never shows the URL: it may be a signed one.
    """
    parts = _split(url)
    if parts.scheme in STORE_SCHEMES:
        if not _BUCKET.fullmatch(parts.netloc) or ".." in parts.netloc or _ends_in_number(parts.netloc.lower()):
            raise _refused("needs the name of a bucket after ://")
        return
    if parts.scheme not in WEB_SCHEMES:
        known = ", ".join(sorted(WEB_SCHEMES | STORE_SCHEMES))
        raise _refused(f"the address must be a URL that starts with one of {known}")
    problem = _web_problem(parts, allow_private=allow_private)
    if problem is not None:
        raise _refused(problem)


def _split(url: str) -> SplitResult:
    """What `urlsplit` would drop silently (tabs, line ends) or what browsers rewrite (backslashes) is refused first."""
    if len(url) > MAX_URL:
        raise _refused(f"longer than {MAX_URL} characters")
    if _NOT_IN_URL.search(url):
        raise _refused("holds a blank, a control character, a quote or a backslash; percent-encode it")
    try:
        parts = urlsplit(url)
        _ = parts.port  # reads it: raises if it is no port
    except ValueError:
        raise _refused("is no well-formed URL") from None
    if not parts.netloc.isascii():
        raise _refused("the host name must be ASCII (xn--… for other scripts)")
    if "@" in parts.netloc:
        raise _refused("holds a user name before the host; leave it out")
    return parts


def _web_problem(parts: SplitResult, *, allow_private: bool) -> str | None:
    host = (parts.hostname or "").removesuffix(".")
    if not host or "%" in parts.netloc:
        return "the host is missing or encoded"
    if parts.port == 0:
        return "port 0 cannot be reached"
    if "[" in parts.netloc:
        if not _BRACKETED.fullmatch(parts.netloc):  # urlsplit itself lets `[::1]x` through
            return "the address in brackets is no IPv6 address"
        return _v6_problem(host, allow_private=allow_private)
    if _ends_in_number(host):
        return _v4_problem(host, allow_private=allow_private)
    return _name_problem(host, allow_private=allow_private)


def _ends_in_number(host: str) -> bool:
    """As browsers decide that a host is meant as an IPv4 address (WHATWG URL, "ends in a number"): `127.1`,
    `2130706433`, `0x7f000001`, `10.0.0.012`.
    """
    return _NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]) is not None


def _v4_problem(host: str, *, allow_private: bool) -> str | None:
    try:
        address = IPv4Address(host)
    except AddressValueError:
        return "an IPv4 address must be four decimal numbers without leading zeros"
    if not allow_private and any(address in block for block in _CLOSED_V4):
        return _inward(host)
    return None


def _v6_problem(host: str, *, allow_private: bool) -> str | None:
    try:
        address = IPv6Address(host)
    except AddressValueError:
        return "the address in brackets is no IPv6 address"
    if not allow_private and (address not in _OPEN_V6 or any(address in block for block in _CLOSED_V6)):
        return _inward(host)
    return None


def _name_problem(host: str, *, allow_private: bool) -> str | None:
    labels = host.split(".")
    if len(host) > _MAX_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        return "the host is no valid name"
    internal = len(labels) == 1 or labels[-1] in _INTERNAL_ENDINGS or f".{host}".endswith(_INTERNAL_ZONES)
    return _inward(host) if internal and not allow_private else None


def _inward(host: str) -> str:
    shown = host if len(host) <= 64 else host[:64] + "..."  # noqa: PLR2004  # enough to recognise it
    return f"{shown} is a private or internal address; ML_ALLOW_PRIVATE_MEDIA=true allows those"


def _refused(problem: str) -> InvalidTask:
    return InvalidTask(problem, field=FIELD)
