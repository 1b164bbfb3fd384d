"""Which routing keys a binding of a topic exchange takes (AMQP 0-9-1 §3.1.3.3). Pure.

Words are separated by dots: `*` stands for one word, `#` for any number of them, none among them.
"""

from __future__ import annotations

from functools import cache


def takes(pattern: str, key: str) -> bool:
    return _takes(tuple(pattern.split(".")), tuple(key.split(".")))


@cache
def _takes(pattern: tuple[str, ...], key: tuple[str, ...]) -> bool:
    if not pattern:
        return not key
    first, *others = pattern
    rest = tuple(others)
    if first == "#":
        return _takes(rest, key) or (bool(key) and _takes(pattern, key[1:]))
    return bool(key) and first in {"*", key[0]} and _takes(rest, key[1:])
