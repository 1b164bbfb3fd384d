"""530: RabbitMQ says many things by it, and each has its own cause and its own setting."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from making_queues import vhost_of
from mlproducer import Settings
from mlproducer.amqp.config import AmqpConfig, Credentials
from mlproducer.amqp.not_allowed import not_allowed
from mlproducer.errors import BrokerRefused, ErrorType
from mlproducer.reliability.reader import Reader
from mlproducer.testing.rabbitmq import PrivateRabbit
from real_link import add_user, real
from scripted_peer import Peer, linked


async def refused(url: str, login: Credentials | None = None) -> tuple[ErrorType, str]:
    async with real(url, "ml.embed", login=login) as link:
        with pytest.raises(BrokerRefused) as error:
            await link.broker.connect()
        return error.value.error_type, str(error.value)


async def test_a_virtual_host_that_is_not_there(vhost_url: str) -> None:
    kind, words = await refused(vhost_url + "-not")
    assert kind is ErrorType.VHOST
    assert "there is no such virtual host" in words
    assert "add_vhost" in words


async def test_a_virtual_host_that_is_not_open_to_the_user(rabbit: PrivateRabbit, vhost_url: str) -> None:
    other = await asyncio.to_thread(rabbit.add_vhost, f"other-{os.urandom(4).hex()}")
    login = await asyncio.to_thread(add_user, rabbit, other, ".*", ".*", ".*")
    kind, words = await refused(vhost_url, login)
    assert kind is ErrorType.VHOST
    assert "not open to this user" in words
    assert "set_permissions" in words


async def test_a_limit_of_connections_of_the_virtual_host(rabbit: PrivateRabbit, vhost_url: str) -> None:
    limit = f'rabbit_vhost_limit:set({vhost_of(vhost_url)}, [{{<<"max-connections">>, 0}}], <<"test">>).'
    await asyncio.to_thread(rabbit.eval, limit)
    kind, words = await refused(vhost_url)
    assert kind is ErrorType.LIMIT
    assert "the virtual host has as many connections" in words
    assert "set_vhost_limits" in words


async def test_a_limit_of_connections_of_the_user(rabbit: PrivateRabbit, vhost_url: str) -> None:
    login = await asyncio.to_thread(add_user, rabbit, vhost_url, ".*", ".*", ".*")
    limit = (
        f'rabbit_auth_backend_internal:set_user_limits(<<"{login.user}">>, #{{<<"max-connections">> => 0}}, <<"t">>).'
    )
    await asyncio.to_thread(rabbit.eval, limit)
    kind, words = await refused(vhost_url, login)
    assert kind is ErrorType.LIMIT
    assert "this user has as many connections" in words
    assert "set_user_limits" in words


async def test_a_limit_of_queues_of_the_virtual_host_is_no_difference(rabbit: PrivateRabbit, vhost_url: str) -> None:
    limit = f'rabbit_vhost_limit:set({vhost_of(vhost_url)}, [{{<<"max-queues">>, 0}}], <<"test">>).'
    await asyncio.to_thread(rabbit.eval, limit)
    async with real(vhost_url, "ml.embed") as link:
        await link.broker.connect()
        (difference,) = link.broker.view().differences
        assert difference.broken
        assert "a limit of the virtual host" in difference.text


async def test_a_queue_of_other_arguments_with_a_limit_among_its_names_is_used_as_it_is(vhost_url: str) -> None:
    """The broker quotes them: `inequivalent arg 'x-queue-type' for queue 'rate-limit'`."""

    def make() -> None:
        with Reader(vhost_url) as admin:
            admin.make_full_queue("rate-limit", "ml.tasks", 9)

    await asyncio.to_thread(make)
    async with real(vhost_url, "rate-limit") as link:
        await link.broker.connect()
        (difference,) = link.broker.view().differences
        assert "used as it is" in difference.text
        assert not difference.broken


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("NOT_ALLOWED - vhost 'connection limit' not found", ErrorType.VHOST, "no such virtual host"),
        ("NOT_ALLOWED - access to vhost 'x' refused for user 'not found'", ErrorType.VHOST, "not open to this user"),
        ("NOT_ALLOWED - vhost 'x' is down", ErrorType.VHOST, "restart_vhost"),
        ("NOT_ALLOWED - connection refused: node connection limit (1) is reached", ErrorType.LIMIT, "connection_max"),
        (
            "NOT_ALLOWED - number of channels opened (1) has reached the negotiated channel_max (1)",
            ErrorType.LIMIT,
            "channel_max",
        ),
        ("NOT_ALLOWED - something new", ErrorType.VHOST, "does not allow it"),
    ],
)
def test_the_words_decide_and_not_the_names_in_them(text: str, kind: ErrorType, words: str) -> None:
    error = not_allowed("host:5672", text)
    assert error.error_type is kind
    assert words in str(error)
    assert text in str(error)


async def test_the_broker_is_told_a_name_for_its_list_of_connections() -> None:
    peer = Peer()
    async with linked(peer):
        name = str(peer.client["connection_name"])
    assert name.split()[1:] == [socket.gethostname(), str(os.getpid())]


@pytest.mark.parametrize(("given", "name"), [({"ml_connection_name": "checkout"}, "checkout"), ({}, "")])
def test_the_name_is_a_setting(given: dict[str, str], name: str) -> None:
    config = AmqpConfig.from_settings(Settings.load(**given), ())
    assert config.name() == name or config.name().endswith(str(os.getpid()))


@pytest.mark.parametrize(
    ("started", "name"), [("/srv/shop/__main__.py", "shop"), ("bin/worker.py", "worker"), ("", "python")]
)
def test_the_program_is_named_as_it_was_started(started: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [started])
    assert AmqpConfig((), "ml.tasks", ()).name().split()[0] == name


async def test_rabbitmq_shows_the_name(rabbit: PrivateRabbit, vhost_url: str) -> None:
    async with real(vhost_url, "ml.embed") as link:
        await link.broker.connect()
        told = await asyncio.to_thread(rabbit.eval, "rabbit_networking:connection_info_all([client_properties]).")
    name = f"{socket.gethostname()} {os.getpid()}"
    assert ",".join(map(str, name.encode())) in told, "as Erlang shows a binary"
