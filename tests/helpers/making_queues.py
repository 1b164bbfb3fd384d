"""Queues as somebody else makes them: a worker, an operator."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from mlproducer.reliability.reader import Reader
from mlproducer.testing.rabbitmq import PrivateRabbit


def make_queue(url: str, *queues: str, exchange: str = "ml.tasks") -> None:
    """As the known workers do; and the exchange."""
    with Reader(url) as admin:
        for queue in queues:
            admin.make_queue(queue, exchange)


def topology(rabbit: PrivateRabbit, url: str) -> str:
    """All that is declared on the virtual host of `url`: exchanges, queues with their arguments, bindings."""
    vhost = unquote(urlsplit(url).path[1:]).encode().hex()
    name = f'binary:decode_hex(<<"{vhost}">>)'
    return rabbit.eval(
        f"V = {name}, {{lists:sort([{{element(4, element(2, X)), element(3, X)}} || X <- rabbit_exchange:list(V)]), "
        "lists:sort([{element(4, amqqueue:get_name(Q)), amqqueue:get_arguments(Q)} || Q <- rabbit_amqqueue:list(V)]), "
        "length(rabbit_binding:list(V))}."
    )
