"""The queues that routes lead to: which arguments they are made with, if they are made at all.

Who declares a queue second must say what the first said, or the broker refuses him (406), and a Celery worker then
ends. So a route in the user's file says how its worker declares the queue, and what it says is checked here: RabbitMQ
would answer a wrong argument with a closed channel, at the first task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from mlproducer.errors import SettingsError

if TYPE_CHECKING:
    from mlproducer.envelope.tasktype import Route

QueueType = Literal["quorum", "classic"]
"""A stream is no queue of tasks: it keeps what was consumed, and Celery does not read it."""
Argument = str | int | bool
Arguments = Mapping[str, Argument]

TYPE: Final = "x-queue-type"
DEFAULT: Final[Arguments] = MappingProxyType({TYPE: "quorum", "x-delivery-limit": 5})
"""What the known workers declare, exactly."""


@dataclass(frozen=True, slots=True)
class QueuePlan:
    """A queue and what is to become of it. `arguments` as AMQP has them. Without `declare` it is looked at only.

    `at_start`: at each connect, used or not, because the settings name it; else with its first task.
    """

    name: str
    arguments: Arguments = field(default_factory=lambda: DEFAULT, hash=False)
    declare: bool = True
    at_start: bool = False

    @property
    def words(self) -> str:
        """For people: `quorum queue ml.embed (x-delivery-limit 5)`."""
        more = ", ".join(f"{name} {value}" for name, value in self.arguments.items() if name != TYPE)
        return f"{self.arguments.get(TYPE, 'classic')} queue {self.name}" + (f" ({more})" if more else "")


def queue_arguments(queue_type: QueueType | None, given: Arguments | None) -> Arguments | None:
    """Of a route's `queue_type` and `arguments`; None if it says nothing, and then `DEFAULT` is meant.

    A classic queue is declared without its type, as Celery does: RabbitMQ takes the two for equal, and a virtual host
    whose default is another type would make that one for the worker too.

    Raises: SettingsError, naming the argument.
    """
    if queue_type is None and given is None:
        return None
    kind: QueueType = queue_type or "quorum"
    if given is None:
        return DEFAULT if kind == "quorum" else MappingProxyType({})
    for name, value in given.items():
        _check(kind, name, value)
    return MappingProxyType({**({TYPE: kind} if kind == "quorum" else {}), **given})


def plans_of(routes: Iterable[Route]) -> tuple[QueuePlan, ...]:
    """One for each queue, in the order of the routes. Raises: SettingsError, if two routes say different things."""
    found: dict[str, list[Route]] = {}
    for route in routes:
        found.setdefault(route.queue, []).append(route)
    return tuple(_plan(name, each) for name, each in found.items())


def _plan(name: str, routes: list[Route]) -> QueuePlan:
    said = [dict(route.arguments) for route in routes if route.arguments is not None]
    declare = all(route.declare for route in routes)
    if any(each != said[0] for each in said) or (said and not declare):
        raise SettingsError(f"queue {name}: two routes lead to it and say different things of how it is made")
    arguments = MappingProxyType(said[0]) if said else DEFAULT
    return QueuePlan(name, arguments, declare, any(route.at_start for route in routes))


def _check(kind: QueueType, name: str, value: object) -> None:
    if name == TYPE:
        raise SettingsError(f"{name}: say it as queue_type")
    if name == "x-expires":
        raise SettingsError(
            "x-expires: with it the broker deletes the queue, and the tasks in it, once no worker was there for that "
            "long. Leave it out; for a queue that has it, say declare = false and let the worker make it"
        )
    rule = _RULES.get(name)
    if rule is None:
        known = ", ".join(each for each, of in _RULES.items() if kind in of.kinds)
        raise SettingsError(f"{name}: RabbitMQ has no such argument for a {kind} queue; there are {known}")
    if kind not in rule.kinds:
        raise SettingsError(f"{name}: only for a {rule.kinds[0]} queue, and this one is {kind}")
    problem = rule.problem(value)
    if problem:
        raise SettingsError(f"{name}: {problem}")


@dataclass(frozen=True, slots=True)
class _Rule:
    """`least` and `most` of a whole number, or `choices` of a text; neither is any text, both None a boolean."""

    kinds: tuple[QueueType, ...] = ("quorum", "classic")
    least: int | None = None
    most: int = 2**63 - 1
    choices: tuple[str, ...] = ()
    text: bool = False

    def problem(self, value: object) -> str:
        if self.least is not None:
            good = type(value) is int and self.least <= value <= self.most
            return "" if good else f"must be a whole number of {self.least} or more" + self._at_most()
        if self.choices:
            return "" if value in self.choices else f"must be {' or '.join(self.choices)}"
        if self.text:
            return "" if isinstance(value, str) else "must be a text"
        return "" if isinstance(value, bool) else "must be true or false"

    def _at_most(self) -> str:
        return "" if self.most == 2**63 - 1 else f", and {self.most} at most"


_QUORUM: Final = ("quorum",)
_CLASSIC: Final = ("classic",)
_LOCATORS: Final = ("client-local", "balanced", "min-masters", "random", "least-leaders")
_RULES: Final[dict[str, _Rule]] = {
    "x-delivery-limit": _Rule(_QUORUM, least=-1),
    "x-message-ttl": _Rule(least=0, most=315_360_000_000),
    "x-max-length": _Rule(least=0),
    "x-max-length-bytes": _Rule(least=0),
    "x-overflow": _Rule(choices=("drop-head", "reject-publish", "reject-publish-dlx")),
    "x-dead-letter-exchange": _Rule(text=True),
    "x-dead-letter-routing-key": _Rule(text=True),
    "x-dead-letter-strategy": _Rule(_QUORUM, choices=("at-most-once", "at-least-once")),
    "x-single-active-consumer": _Rule(),
    "x-queue-leader-locator": _Rule(choices=_LOCATORS),
    "x-quorum-initial-group-size": _Rule(_QUORUM, least=1),
    "x-quorum-target-group-size": _Rule(_QUORUM, least=1),
    "x-max-in-memory-length": _Rule(_QUORUM, least=0),
    "x-max-in-memory-bytes": _Rule(_QUORUM, least=0),
    "x-max-priority": _Rule(_CLASSIC, least=1, most=255),
    "x-queue-mode": _Rule(_CLASSIC, choices=("default", "lazy")),
    "x-queue-version": _Rule(_CLASSIC, least=1, most=2),
    "x-queue-master-locator": _Rule(_CLASSIC, choices=_LOCATORS),
}
"""RabbitMQ 3.10 to 4.3. `reject-publish-dlx` is for classic queues, which RabbitMQ itself says."""
