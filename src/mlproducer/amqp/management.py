"""What RabbitMQ's management API tells that AMQP does not: bindings, policies, what a queue does with its messages, and
what passes through it.

For people: `mlproducer doctor`, and what a producer shows of its queues. Blocking; reads only.
"""

from __future__ import annotations

import base64
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Collection
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Struct, field

from mlproducer.amqp.config import Credentials
from mlproducer.errors import BrokerError, BrokerRefused, BrokerUnreachable
from mlproducer.ports import QueueTraffic
from mlproducer.status import Behind, BoundTo, QueueRules

_LARGEST: Final = 64 << 20
"""Bytes of an answer."""
_COLUMNS: Final = "messages_unacknowledged,message_stats"

Rules = dict[str, object]
T = TypeVar("T")


class _Exchange(Struct):
    arguments: Rules = field(default_factory=dict)
    policy: str | None = None


class _Policy(Struct):
    definition: Rules = field(default_factory=dict)


class _Binding(Struct):
    destination: str
    destination_type: str
    routing_key: str


class _Rate(Struct):
    rate: float


class _Stats(Struct):
    """Of what never happened, there is nothing."""

    publish_details: _Rate | None = None
    deliver_get_details: _Rate | None = None
    ack_details: _Rate | None = None


class _Queue(Struct):
    name: str = ""
    durable: bool = True
    auto_delete: bool = False
    exclusive: bool = False
    arguments: Rules = field(default_factory=dict)
    effective_policy_definition: Rules | list[object] | None = None
    """An empty list where there is none: so Erlang's empty object is written."""
    messages_unacknowledged: int | None = None
    """Not there before the broker's first statistics of the queue, some seconds after it was made."""
    message_stats: _Stats | list[object] | None = None

    @property
    def traffic(self) -> QueueTraffic:
        stats = self.message_stats if isinstance(self.message_stats, _Stats) else _Stats()
        published, delivered, acked = (
            None if each is None else each.rate
            for each in (stats.publish_details, stats.deliver_get_details, stats.ack_details)
        )
        return QueueTraffic(self.messages_unacknowledged, published, delivered, acked)


_GONE: Final = _Queue()


class _Node(Struct):
    name: str = "a node"
    mem_alarm: bool = False
    disk_free_alarm: bool = False


class Management:
    """`url` is that of the API's root, with neither user nor password: those are `login`. `timeout` in seconds."""

    def __init__(self, url: str, login: Credentials, *, timeout: float, tls: ssl.SSLContext | None = None) -> None:
        self._url = url.rstrip("/")
        self._login = base64.b64encode(f"{login.user}:{login.password}".encode()).decode()
        self._timeout = timeout
        self._tls = tls

    def look(self, vhost: str, exchange: str) -> Behind:
        """Raises: BrokerError, in words that name the setting."""
        where = quote(vhost, safe="")
        here = f"exchanges/{where}/{quote(exchange, safe='')}"
        # An exchange that is not there yet hides nothing; nodes and policies are shown to a monitor only.
        found = self._get(here, _Exchange, _Exchange())
        policy = _Policy()
        if found.policy:
            policy = self._get(f"policies/{where}/{quote(found.policy, safe='')}", _Policy, policy)
        alternate = found.arguments.get("alternate-exchange") or policy.definition.get("alternate-exchange")
        queues = self._get(f"queues/{where}", list[_Queue])
        return Behind(
            alternate=str(alternate or ""),
            bound=tuple(_bound(each) for each in self._get(f"{here}/bindings/source", list[_Binding], [])),
            queues={each.name: _rules(each) for each in queues},
            traffic={each.name: each.traffic for each in queues},
            alarms=tuple(told for node in self._get("nodes", list[_Node], []) for told in _alarms(node)),
        )

    def traffic(self, vhost: str, queues: Collection[str]) -> dict[str, QueueTraffic]:
        """Of these queues, one after the other, within the timeout in all; one that is not there is left out: a broker
        may have thousands of others, and its figures of each cost it. Raises: BrokerError, in words that name the
        setting.
        """
        end = time.monotonic() + self._timeout
        found = {}
        for queue in queues:
            path = f"queues/{quote(vhost, safe='')}/{quote(queue, safe='')}?columns={_COLUMNS}"
            answer = self._get(path, _Queue, _GONE, within=end - time.monotonic())
            if answer is not _GONE:
                found[queue] = answer.traffic
        return found

    def _get(self, path: str, kind: type[T], otherwise: T | None = None, *, within: float | None = None) -> T:
        """The answer; `otherwise` where there is no such thing, or this user may not see it. `within`: seconds."""
        seconds = self._timeout if within is None else max(within, 0.001)
        request = urllib.request.Request(f"{self._url}/api/{path}", headers={"Authorization": f"Basic {self._login}"})  # noqa: S310  # the settings take http and https only
        try:
            with urllib.request.urlopen(request, timeout=seconds, context=self._tls) as answer:  # noqa: S310  # as above
                return msgspec.json.decode(answer.read(_LARGEST), type=kind)
        except urllib.error.HTTPError as error:
            error.close()  # it is the answer as well, and holds its socket
            if error.code in {401, 403, 404} and otherwise is not None:
                return otherwise
            raise _refused(self._url, path, error.code) from None
        except (OSError, ValueError) as error:
            raise BrokerUnreachable(
                f"{self._url}: RabbitMQ's management API gave no answer that can be read ({type(error).__name__}): see "
                "RABBITMQ_MANAGEMENT_URL"
            ) from None


def _refused(url: str, path: str, code: int) -> BrokerError:
    if code in {401, 403}:
        return BrokerRefused(
            f"{url}: the management API refuses the login ({code}): its user needs the tag `management` or "
            "`monitoring`; see RABBITMQ_MANAGEMENT_URL"
        )
    return BrokerRefused(f"{url}: the management API answers {code} to {path}: see RABBITMQ_MANAGEMENT_URL")


def _rules(queue: _Queue) -> QueueRules:
    """What holds for it, of its arguments and of the policies on it."""
    policy = queue.effective_policy_definition
    rules = {
        **(policy if isinstance(policy, dict) else {}),
        **{name.removeprefix("x-"): value for name, value in queue.arguments.items()},
    }
    return QueueRules(
        durable=queue.durable,
        passing=queue.auto_delete or queue.exclusive,
        bounded="max-length" in rules or "max-length-bytes" in rules,
        overflow=str(rules.get("overflow", "drop-head")),
        expires="message-ttl" in rules,
        vanishes="expires" in rules,
        keeps_dead="dead-letter-exchange" in rules,
    )


def _bound(binding: _Binding) -> BoundTo:
    return BoundTo(binding.destination, binding.routing_key, queue=binding.destination_type == "queue")


def _alarms(node: _Node) -> list[str]:
    alarms = {"memory": node.mem_alarm, "disk": node.disk_free_alarm}
    return [f"{node.name}: {what} alarm" for what, on in alarms.items() if on]
