"""The addresses of a name: one that swallows what is sent to it, or that hangs, costs a moment and no more."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from mlproducer.amqp import addresses
from mlproducer.amqp.addresses import Addresses, Info, in_order
from mlproducer.errors import BrokerError, BrokerUnreachable
from mlproducer.outcome import Confirmed
from mlproducer.testing.rabbitmq import PrivateRabbit
from real_link import outcome, real
from scripted_peer import Peer, linked

SIX = "six-a", "six-b"
FOUR = "four-a", "four-b", "four-c"


def info(address: str, port: int = 5672) -> Info:
    family = socket.AF_INET6 if address.startswith("six") else socket.AF_INET
    return family, socket.SOCK_STREAM, 6, "", (address, port)


def order(names: Sequence[str], *failed: str) -> list[str]:
    return [each[4][0] for each in in_order([info(name) for name in names], [(name, 5672) for name in failed])]


@pytest.mark.parametrize(
    ("names", "failed", "tried"),
    [
        ((), (), []),
        (("four-a",), ("four-a",), ["four-a"]),
        ((*SIX, *FOUR), (), ["six-a", "four-a", "six-b", "four-b", "four-c"]),
        (FOUR, ("four-a",), ["four-b", "four-c", "four-a"]),
        (FOUR, ("four-b", "four-a"), ["four-c", "four-b", "four-a"]),
        ((*SIX, *FOUR), ("six-a", "elsewhere"), ["four-a", "six-b", "four-b", "four-c", "six-a"]),
    ],
)
def test_families_take_turns_and_what_failed_is_tried_last(
    names: tuple[str, ...], failed: tuple[str, ...], tried: list[str]
) -> None:
    assert order(names, *failed) == tried


def named(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """From now on each name has these addresses."""

    async def resolve(_host: str, port: int) -> list[Info]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]

    monkeypatch.setattr(addresses, "resolve", resolve)


@contextmanager
def swallowing(host: str, port: int) -> Iterator[None]:
    """An address whose queue of connections is full: the kernel drops what comes, as a firewall does."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind((host, port))
        full.listen(0)
        for _ in range(4):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex((host, port))
        yield


async def test_an_address_that_swallows_everything_costs_a_moment(
    rabbit: PrivateRabbit, vhost_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(monkeypatch, "127.0.0.2", "127.0.0.3", "127.0.0.1")
    with swallowing("127.0.0.2", rabbit.port), swallowing("127.0.0.3", rabbit.port):
        async with real(vhost_url, "ml.embed") as link:
            await link.broker.connect()
            assert await outcome(link) == Confirmed()


async def test_the_next_address_is_tried_before_the_first_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer()
    async with linked(peer, connect=False) as link:
        named(monkeypatch, "127.0.0.2", "127.0.0.1")
        with swallowing("127.0.0.2", peer.port):
            await link.broker.connect()  # within its two seconds
        assert link.broker.view().connected


async def test_an_address_at_which_a_broker_hangs_is_tried_last_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes connections for a process that is stopped, so the next connect would go there too."""
    peer = Peer()
    async with linked(peer, connect=False) as link:
        named(monkeypatch, "127.0.0.2", "127.0.0.1")
        with socket.socket() as hung:
            hung.bind(("127.0.0.2", peer.port))
            hung.listen()
            with pytest.raises(BrokerUnreachable, match="no answer in time"):
                await link.broker.connect()
            await link.broker.connect()
            assert link.broker.view().connected


async def test_what_was_tried_last_is_in_its_place_again_once_a_connect_came_up() -> None:
    found = Addresses()
    found.failed("name", ("127.0.0.2", 1))
    found.failed("name", ("127.0.0.1", 1))
    found.failed("name", ("127.0.0.2", 1))
    assert found._failed["name"] == [("127.0.0.1", 1), ("127.0.0.2", 1)]
    found.worked("name")
    assert not found._failed


async def test_addresses_that_all_refuse_are_said_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer()
    async with linked(peer, connect=False) as link:
        named(monkeypatch, "127.0.0.2", "127.0.0.3")
        with pytest.raises(BrokerError, match="connection refused: does RabbitMQ run there"):
            await link.broker.connect()


async def test_a_connect_that_is_cancelled_leaves_no_socket_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer()
    async with linked(peer, connect=False) as link:
        named(monkeypatch, "127.0.0.2", "127.0.0.3")
        with swallowing("127.0.0.2", peer.port), swallowing("127.0.0.3", peer.port):
            connecting = asyncio.create_task(link.broker.connect())
            await asyncio.sleep(0.4)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
