"""530 (NOT_ALLOWED), by which RabbitMQ says many things: only its text tells them apart."""

from __future__ import annotations

from typing import Final

from mlproducer.core.refusals import unquoted
from mlproducer.errors import BrokerError, BrokerRefused, ErrorType

_MEANINGS: Final = {
    "user connection limit": (
        ErrorType.LIMIT,
        (
            "this user has as many connections as he may have. Close some, give each application a user of its own, or "
            "raise the limit: rabbitmqctl set_user_limits USER '{\"max-connections\": N}'"
        ),
    ),
    "node connection limit": (
        ErrorType.LIMIT,
        (
            "this node has as many connections as it may have. Close some, or raise connection_max in its "
            "rabbitmq.conf; another node of RABBITMQ_URL is tried next"
        ),
    ),
    "connection limit": (
        ErrorType.LIMIT,
        (
            "the virtual host has as many connections as it may have. Close some, or raise the limit: rabbitmqctl "
            "set_vhost_limits -p VHOST '{\"max-connections\": N}'"
        ),
    ),
    "number of channels opened": (
        ErrorType.LIMIT,
        (
            "no more channels may be opened. Raise channel_max, in rabbitmq.conf or in RABBITMQ_URL, or the limit of "
            "the user: rabbitmqctl set_user_limits USER '{\"max-channels\": N}'"
        ),
    ),
    "not found": (
        ErrorType.VHOST,
        ("there is no such virtual host: see the path of RABBITMQ_URL, or make it: rabbitmqctl add_vhost VHOST"),
    ),
    "is down": (
        ErrorType.VHOST,
        ("the virtual host is down on this node: see its log; rabbitmqctl restart_vhost starts it again"),
    ),
    "refused for user": (
        ErrorType.VHOST,
        (
            "the virtual host is not open to this user: see user and path of RABBITMQ_URL, or give him permissions: "
            "rabbitmqctl set_permissions -p VHOST USER '.*' '.*' '.*'"
        ),
    ),
}
"""What the text has in it, outside of the names that it quotes; the first that fits is meant."""


def not_allowed(node: str, text: str) -> BrokerError:
    """The error for a connection that was closed with 530, with its likely cause and what to change."""
    said = unquoted(text)
    for words, (error_type, meaning) in _MEANINGS.items():
        if words in said:
            return BrokerRefused(f"{node}: {meaning} (the broker says: {text})", error_type=error_type)
    return BrokerRefused(f"{node}: the broker does not allow it ({text}): see RABBITMQ_URL", error_type=ErrorType.VHOST)
