"""The exchange, queues and bindings: make what is used and missing, never change what is there, say what differs.

What is used: the queues that the settings name, from the first connect on, and any other from its first task on. The
exchange is used with the first queue. Nobody who only looks comes here.

Once in the life of a process a queue is declared and bound, when it is used first: so it is made, or it is known how it
differs. From then on a connect only looks at it, at all queues at once, and makes again what is gone. A binding cannot
be looked at: that one is gone is seen by a message that comes back, and then the next task declares and binds again.

Between two connects the health check does the same (`measure`, `keep`), and binds all queues that are ours once more: a
message does not come back while some other queue takes it, such as one that is bound by `#`. A queue that was there and
is gone, and that is not ours to make, gets no task (`lost`): that it is confirmed would be another queue's word.
"""

from __future__ import annotations

import asyncio
from typing import Final

from pamqp import base, commands
from pamqp.common import FieldTable

from mlproducer.amqp import faults
from mlproducer.amqp.config import AmqpConfig
from mlproducer.amqp.connection import Connection
from mlproducer.amqp.faults import ChannelClosed
from mlproducer.amqp.questions import Found, is_there, look, refusal
from mlproducer.core.refusals import unquoted
from mlproducer.envelope.queues import Arguments, QueuePlan
from mlproducer.errors import BrokerRefused, ErrorType
from mlproducer.events import TopologyDiffers
from mlproducer.jobs import heard, shielded
from mlproducer.ports import Listener, QueueDepth

EXCHANGE_TYPE: Final = "topic"
PATIENCE: Final = 2.0
"""Seconds, but a quarter of a connect at most: as long a connect waits for queues, and a task for a binding."""


class Topology:
    """Of one broker, over its links. `tell` hears of each difference once; publishing goes on all the same."""

    def __init__(self, config: AmqpConfig, tell: Listener) -> None:
        self._config = config
        self._tell = tell
        self._plans = {plan.name: plan for plan in config.queues}
        self._used = {plan.name: None for plan in config.queues if plan.at_start}
        self._settled: set[str] = set()
        """Queues that this process has declared and bound: they are as told in `differences`. Not asked for again until
        something speaks against it."""
        self._exchange_settled = not config.declare
        """So it is with the exchange."""
        self._patience = min(PATIENCE, config.connection_timeout / 4)
        self._missing: set[str] = set()
        """Queues that were used and not there."""
        self._there: set[str] = set()
        """Queues that were there once."""
        self._back: set[str] = set()
        """Queues that others made again, seen for the first time: who makes one declares it first and binds it then."""
        self._bound: set[str] = set()
        """Queues that we bound once, and so may bind."""
        self._other: set[str] = set()
        """Queues that are known to be made otherwise than ours would be."""
        self._keeping: dict[str, asyncio.Task[None]] = {}
        """What `keep` began on this link and is not done. A queue that does not answer has one such job at most."""
        self._absent: set[str] = set()
        """Queues that nobody used and that were not there: not asked for again, since the broker logs each question."""
        self._exchange_seen = False
        self._exchange_turn = asyncio.Lock()
        self._differences: dict[str, TopologyDiffers] = {}
        self._told: set[TopologyDiffers] = set()
        self._using: dict[str, asyncio.Task[None]] = {}
        self._asked: dict[str, asyncio.Task[Found | ChannelClosed]] = {}
        """What each queue holds: the questions of this link that are open. One that is not answered is not asked again:
        each would take one more channel."""

    @property
    def differences(self) -> tuple[TopologyDiffers, ...]:
        return tuple(self._differences.values())

    @property
    def exchange_seen(self) -> bool:
        """It was there, on this link."""
        return self._exchange_seen

    async def verify(self, connection: Connection) -> set[str]:
        """Look at all that was used, on a link that is new or from which something vanished, and make what is gone.
        What is there and known is neither declared nor bound: one node that hangs keeps its whole cluster from binding.
        And a queue that does not answer, such as one whose home is that node, is not waited for.

        Returns the queues that tasks may go to with no more ado. Raises: as `use`.
        """
        self._absent.clear()
        self._asked.clear()
        self._keeping.clear()
        self._exchange_seen = False
        if self._config.exchange in self._differences:
            self._exchange_settled = False  # it may be as we would make it by now
        if connection.narrow:  # with the first task it would be too late: there is no channel for it then
            self._used.update(dict.fromkeys(filter(self._is_ours, self._plans)))
        used = tuple(self._used)
        if used or not self._config.declare:
            await self._see_exchange(connection)
        ready: set[str] = set()
        looks = [asyncio.create_task(self._again(connection, queue, ready)) for queue in used]
        try:
            async with asyncio.timeout(self._config.connection_timeout / 2 if connection.narrow else self._patience):
                await asyncio.gather(*looks)
        except TimeoutError:
            pass
        finally:
            for each in looks:
                each.cancel()
            await asyncio.gather(*looks, return_exceptions=True)
        return {queue for queue in ready if not self.lost(queue)}

    async def use(self, connection: Connection, queue: str) -> None:
        """A task is about to go there: the queue is declared and bound, unless this process did so already. Who comes
        while another one waits for the answer, or gave up on it, waits for the same.

        Raises: BrokerRefused, if there is no exchange and none can be made; BrokerError, if the connection ends.
        """
        using = self._using.get(queue)
        if using is None or using.done():
            using = self._using[queue] = heard(asyncio.create_task(self._use(connection, queue)))
        await shielded(using)

    async def _use(self, connection: Connection, queue: str) -> None:
        self._used[queue] = None
        self._absent.discard(queue)
        async with self._exchange_turn:  # the first tasks of several routes come at once
            if not (self._exchange_seen and self._exchange_settled):
                await self._see_exchange(connection, compare=not self._exchange_settled)
        if not self._is_ours(queue):
            self._seen(queue, await look(connection, queue))
        elif not self._is_settled(queue):
            await self._declare(connection, queue)
            await self._bind(connection, queue)

    def unroutable(self, queue: str) -> None:
        """A message to it came back: it was deleted, perhaps, or somebody took its binding away. The next task asks."""
        self._settled.discard(queue)

    async def measure(self, connection: Connection) -> None:
        """Ask what each queue holds, all at once, and wait for the answers. See `depths`."""
        for queue in {**self._plans, **self._used}.keys() - self._absent - self._asked.keys():
            question = asyncio.get_running_loop().create_task(look(connection, queue))
            self._asked[queue] = heard(question)
        if self._asked:
            await asyncio.wait(self._asked.values())

    def depths(self) -> dict[str, QueueDepth]:
        """What is in each queue that is there and has answered. Raises: BrokerError, if the connection ended."""
        found = {}
        for queue, question in [each for each in self._asked.items() if each[1].done()]:
            del self._asked[queue]
            answer = question.result()
            if isinstance(answer, Found):
                found[queue] = QueueDepth(answer.messages, answer.consumers)
                self._there.add(queue)
                if queue in self._missing | self._back:  # somebody made it meanwhile: a worker, or a person
                    self._seen(queue, answer)
            elif queue not in self._used:
                self._absent.add(queue)
            elif answer.code == faults.NOT_FOUND:
                self._settled.discard(queue)
                self._seen(queue, answer)
        return found

    @property
    def missing(self) -> tuple[str, ...]:
        """Queues that are used and not there, as the last look found."""
        return tuple(self._missing)

    def lost(self, queue: str) -> str:
        """Why a task must not be sent there; empty if it may. A queue that was never there is no reason: its name may
        be no more than the key by which another queue is bound.
        """
        if queue in self._back:
            return f"the queue {queue} is there again, and perhaps not bound yet"
        gone = queue in self._missing and queue in self._there
        return f"the queue {queue} was there, and is gone" if gone else ""

    async def keep(self, connection: Connection) -> None:
        """Make again what is ours and gone, and bind again what we bound; wait for the answers."""
        for queue in self._used.keys() & self._bound - self._keeping.keys():
            keeping = heard(asyncio.get_running_loop().create_task(self._keep(connection, queue)))
            self._keeping[queue] = keeping
        if self._keeping:
            await asyncio.wait(self._keeping.values())

    async def _keep(self, connection: Connection, queue: str) -> None:
        try:
            if queue in self._differences and queue not in self._other:
                await self._declare(connection, queue)
            self._bound_now(queue, await refusal(connection, self._binding(queue)))
        finally:
            if self._keeping.get(queue) is asyncio.current_task():
                del self._keeping[queue]

    async def _see_exchange(self, connection: Connection, *, compare: bool = False) -> None:
        """It is there, or is made. To `compare`, it is declared as ours though it is there."""
        name = self._config.exchange
        missing = None if compare else await refusal(connection, is_there(name))
        gone = missing is not None and missing.code == faults.NOT_FOUND
        if gone:
            self._settled.clear()  # with an exchange go its bindings
        if self._config.declare and (compare or gone):
            self._exchange_settled = True
            self._differences.pop(name, None)
            declare = commands.Exchange.Declare(exchange=name, exchange_type=EXCHANGE_TYPE, durable=True)
            refused = await refusal(connection, declare)
            if refused is None:
                self._exchange_seen = True
                return
            self._differs(name, "the exchange is not the durable topic exchange that we would make", refused)
            missing = await refusal(connection, is_there(name))
        # A user who may only write is not even told whether it is there, and publishes all the same.
        if missing is not None and missing.code != faults.ACCESS_REFUSED:
            raise BrokerRefused(
                f"{connection.endpoint.node}: there is no exchange {name} ({missing}): see ML_EXCHANGE, and "
                "ML_DECLARE_TOPOLOGY or the user's permission to configure it",
                error_type=ErrorType.TOPOLOGY,
            )
        self._exchange_seen = True

    async def _again(self, connection: Connection, queue: str, ready: set[str]) -> None:
        """Look at a queue that was used; `ready` gets it once it is known to be there, or cannot be made."""
        if not self._is_ours(queue):
            self._seen(queue, await look(connection, queue))
        elif not self._is_settled(queue) or await self._is_gone(connection, queue):
            await self._declare(connection, queue)
            ready.add(queue)
            await self._bind(connection, queue)
        ready.add(queue)

    async def _is_gone(self, connection: Connection, queue: str) -> bool:
        found = await look(connection, queue)
        return isinstance(found, ChannelClosed) and found.code == faults.NOT_FOUND

    async def _declare(self, connection: Connection, queue: str) -> None:
        """The broker makes what is missing, and says what differs."""
        plan = self._plans[queue]
        was_missing = queue in self._missing
        self._settled.discard(queue)
        self._seen(queue, None)
        refused = await refusal(connection, declaration(plan))
        if refused is None:
            # Race: the health check asks for it, we declare it, and the answer to the older question comes: not there.
            self._asked.pop(queue, None)
            self._seen(queue, None)
            self._there.add(queue)
            return
        self._differs(queue, f"it is not the {plan.words} that we would make, and is used as it is", refused)
        if was_missing and await self._is_gone(connection, queue):
            self._missing.add(queue)

    async def _bind(self, connection: Connection, queue: str) -> None:
        try:
            async with asyncio.timeout(self._patience):
                refused = await refusal(connection, self._binding(queue))
        except TimeoutError:
            # One node of a cluster hangs. The queue is there, and its binding was mostly there before; if not, the task
            # comes back, and the next one asks again.
            return
        self._bound_now(queue, refused)

    def _binding(self, queue: str) -> base.Frame:
        return commands.Queue.Bind(queue=queue, exchange=self._config.exchange, routing_key=queue)

    def _bound_now(self, queue: str, refused: ChannelClosed | None) -> None:
        if refused is None:
            self._bound.add(queue)
        elif not self._cannot_be(queue):
            why = f"the queue could not be bound to {self._config.exchange} by its name"
            self._differs(queue, why, refused, broken=refused.code != faults.ACCESS_REFUSED)
        self._settled.add(queue)

    def _cannot_be(self, queue: str) -> bool:
        """It could not be made, so of course it could not be bound either."""
        difference = self._differences.get(queue)
        return difference is not None and difference.broken

    def _is_ours(self, queue: str) -> bool:
        """To declare and to bind. A row of the spool may lead to a queue that no task type leads to any more: how to
        make it is not known.
        """
        plan = self._plans.get(queue)
        return self._config.declare and plan is not None and plan.declare

    def _is_settled(self, queue: str) -> bool:
        return queue in self._settled and queue not in self._differences

    def _seen(self, queue: str, found: Found | ChannelClosed | None) -> None:
        before = self._differences.pop(queue, None)
        was_missing = queue in self._missing
        self._missing.discard(queue)
        self._back.discard(queue)
        self._other.discard(queue)
        if isinstance(found, Found):
            self._there.add(queue)
            if was_missing and not self._is_ours(queue):
                self._back.add(queue)
            if before is not None:
                self._told.discard(before)  # it is over: should it come again, that is news
        if isinstance(found, ChannelClosed):
            self._differs(queue, "it could not be looked at", found)

    def _differs(self, name: str, what: str, refused: ChannelClosed, *, broken: bool = False) -> None:
        """In plain words, by the code of the refusal."""
        match refused.code:
            case faults.ACCESS_REFUSED:
                why = "this user may not look at it or configure it, so whether it is as we would make it is not known"
            case faults.NOT_FOUND:
                why, broken = "it is not there", True
                self._missing.add(name)
            case _ if "limit" in unquoted(refused.text):
                why, broken = "it cannot be made, because of a limit of the virtual host (see set_vhost_limits)", True
            case _:
                why = what
                self._other.add(name)
        then = "Its tasks wait until it is there again" if self.lost(name) else "Publishing goes on"
        differs = TopologyDiffers(name, f"{why}. The broker says: {refused}. {then}", broken)
        self._differences[name] = differs
        if differs not in self._told:  # once, not at every reconnect
            self._told.add(differs)
            self._tell(differs)


def declaration(plan: QueuePlan) -> commands.Queue.Declare:
    return commands.Queue.Declare(queue=plan.name, durable=True, arguments=_table(plan.arguments))


def _table(arguments: Arguments) -> FieldTable:
    return dict(arguments)
