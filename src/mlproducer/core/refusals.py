"""Whom the broker blames when it closes a channel for a publish. Pure.

AMQP gives a code and a text of at most 255 bytes, and no number of the message. RabbitMQ's texts name what is refused,
and so do those of its relatives:

    code   text (of RabbitMQ 3.10 to 4.3)                                                      blamed
    404    no exchange 'x' in vhost 'v'                                                        all routes
    403    access to exchange 'x' in vhost 'v' refused for user 'u' (with `write` from 3.11)   all routes
    403    cannot publish to internal exchange 'x' in vhost 'v'                                all routes
    403    access to topic 'k' in exchange 'x' in vhost 'v' refused for user 'u'               the route k
    else   such as 406 for a message that is too large                                         one message

A fault of the exchange is one fault, however many messages met it. To try each of them alone, so that the one to blame
is found, would open a channel for each and spend what is not theirs.
"""

from __future__ import annotations

import re
from typing import Final

from mlproducer.outcome import EVERY_ROUTE

_ACCESS_REFUSED: Final = 403
_NOT_FOUND: Final = 404

_NAMES: Final = re.compile(r"'[^']*'")
_TOPIC: Final = re.compile(r"\btopic '(?P<key>.*)' in exchange '")


def unquoted(text: str) -> str:
    """What a broker says, without the names that it quotes: those may have any word in them."""
    return _NAMES.sub("", text)


def blamed_route(code: int, text: str, exchange: str) -> str | None:
    """A routing key, `EVERY_ROUTE`, or None for one message of those in flight."""
    if code == _NOT_FOUND:
        return EVERY_ROUTE  # a publish looks for nothing else: a queue that is missing gives the message back
    if code != _ACCESS_REFUSED:
        return None
    topic = _TOPIC.search(text)
    if topic is not None:
        return topic["key"]
    return EVERY_ROUTE if f"exchange '{exchange}'" in text else None
