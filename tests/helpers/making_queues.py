"""Queues as somebody else makes them: a worker, an operator."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from mlproducer.reliability.reader import Reader
from mlproducer.testing.rabbitmq import PrivateRabbit


def make_queue(url: str, *queues: str, exchange: str = "ml.tasks") -> None:
    """As the known workers do; and the exchange."""
    with Reader(url) as admin:
        for queue in queues:
            admin.make_queue(queue, exchange)


def delete_queue(url: str, queue: str) -> None:
    with Reader(url) as admin:
        admin.delete(queue)


def queue_states(rabbit: PrivateRabbit, url: str) -> list[tuple[str, int, str]]:
    """Name, messages and type of each queue on the virtual host of `url`, sorted: `[("ml.embed", 0, "quorum")]`.

    As `rabbitmqctl list_queues` says them, without its Erlang VM that costs seconds of processor time at each look.
    """
    told = rabbit.eval(
        "[{binary_to_list(Name), proplists:get_value(messages, Queue), proplists:get_value(type, Queue)} "
        f"|| Queue <- rabbit_amqqueue:info_all({vhost_of(url)}, [name, messages, type]), "
        "{resource, _, queue, Name} <- [proplists:get_value(name, Queue)]]."
    )
    found = re.findall(r'\{"([^"]+)", (\d+), (\w+)\}', told)
    return sorted((name, int(messages), kind) for name, messages, kind in found)


def consumed_queues(rabbit: PrivateRabbit, url: str) -> str:
    """The names of the queues on the virtual host of `url` that somebody reads."""
    return rabbit.eval(
        f"[binary_to_list(Name) || Consumer <- rabbit_amqqueue:consumers_all({vhost_of(url)}), "
        "{resource, _, queue, Name} <- [proplists:get_value(queue_name, Consumer)]]."
    )


def topology(rabbit: PrivateRabbit, url: str) -> str:
    """All that is declared on the virtual host of `url`: exchanges, queues with their arguments, bindings."""
    return rabbit.eval(
        f"V = {vhost_of(url)}, {{lists:sort([{{element(4, element(2, X)), element(3, X)}} || X <- rabbit_exchange:list(V)]), "
        "lists:sort([{element(4, amqqueue:get_name(Q)), amqqueue:get_arguments(Q)} || Q <- rabbit_amqqueue:list(V)]), "
        "length(rabbit_binding:list(V))}."
    )


def close_connections(rabbit: PrivateRabbit, url: str) -> None:
    """Of all clients of the virtual host of `url`, as `rabbitmqctl close_all_connections` does."""
    rabbit.eval(
        "rabbit_networking:close_connections([Pid || [{pid, Pid}, {vhost, Vhost}] <- "
        f'rabbit_networking:connection_info_all([pid, vhost]), Vhost =:= {vhost_of(url)}], "as a test").'
    )


def vhost_of(url: str) -> str:
    """Its name as an Erlang expression."""
    return f'binary:decode_hex(<<"{unquote(urlsplit(url).path[1:]).encode().hex()}">>)'
