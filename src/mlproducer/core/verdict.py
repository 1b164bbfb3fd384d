"""The one answer to "are tasks getting through, and if not, why not": what every face shows is made of it.

Console, `/health`, `/status`, readiness, `doctor`, metrics and so alerts are given the same `Verdict` of the same
`Facts`. Each row of the table that fits gives a `Cause`; none hides another. The worst comes first: what refuses more
tasks, then what is red, then the order of the rows.

    code              level   new tasks         when
    not_accepting     red     refused           the producer is not started, or is stopping
    spool_fails       red     refused           the store cannot be used; while the way to the broker is open, only what
                              (some refused)    is not confirmed at once
    spool_full        red     refused           the gate is closed, and the way to the broker is not open;
                      amber   some refused      ... and it is open: what is not confirmed at once
    all_refused       red     refused           10 calls or more within the window, and none was accepted
    not_connected     red     kept              no link, after an error
    blocked           red     kept              a memory or disk alarm
    breaker_open      red     kept              too many failures in a row
    exchange_held     red     kept              no route of the exchange takes anything
    connecting        amber   kept              the first connect is under way
    breaker_probing   amber   kept              half-open: one at a time
    some_refused      amber   some refused      calls within the window, for a reason that is not the caller's
    blobs_fail        amber   some refused      the store of large payloads did not take the last one
    silent            amber   some kept         attempts are in flight, and the broker has answered none for a while
    answers_late      amber   some kept         confirms of a route come late, and are waited for longer
    route_failing     amber   some kept         a route has failed for longer than its patience
    route_held        amber   some kept         a route takes nothing at present
    queue_missing     amber   some kept         a queue or an exchange is not there, or not bound
    drain_still       amber   confirmed         what waits in the spool stays there
    spool_fills       amber   confirmed         over 80 % of a limit
    unread            amber   confirmed         messages are ready in a queue, and nobody reads it
    dead              amber   confirmed         dead letters want a person
    backlog           amber   confirmed         tasks wait that were not told to wait
    clock             amber   confirmed         clocks are apart, or were set

`since` is what the part knows, or how long the cause has been seen (`delivery.assessor`).

Two properties, which hypothesis tries on any facts: where a caller is refused, no face reads "accepted"; and what is
green for one face is green for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from mlproducer.core.facts import Facts, HeldRoute, LinkFacts, Room, SeenQueue
from mlproducer.outcome import blocked_text

FILL_WARNS: Final = 0.8
"""Share of a limit of the spool: time to act before tasks are refused."""
DRAIN_STILL: Final = 30.0
"""Seconds more than a batch may take after which a drain that begins no turn is said to stand still."""
SILENT: Final = 2.0
"""Seconds without an answer, with attempts in flight: less than half of the confirm timeout's default, and far
more than a confirm takes."""
WINDOW: Final = 10.0
"""Seconds that refusals are looked at."""
ALL: Final = 10
"""Refusals within the window, with nothing accepted, that are no chance."""
OWN_FAULTS: Final = frozenset({"InvalidTask", "TaskTooLarge", "TaskConflict", "NoTransaction"})
"""Refusals that the caller mends: they say nothing of the producer."""


class Level(StrEnum):
    GREEN = "green"
    AMBER = "amber"
    RED = "red"


class NewTasks(IntEnum):
    """What becomes of a new task, the worst last. The values of `ml_producer_new_tasks`."""

    CONFIRMED = 0
    SOME_KEPT = 1
    KEPT = 2
    SOME_REFUSED = 3
    REFUSED = 4


class Code(StrEnum):
    """The values of the label `cause`, in the order of the table."""

    NOT_ACCEPTING = "not_accepting"
    SPOOL_FAILS = "spool_fails"
    SPOOL_FULL = "spool_full"
    ALL_REFUSED = "all_refused"
    NOT_CONNECTED = "not_connected"
    BLOCKED = "blocked"
    BREAKER_OPEN = "breaker_open"
    EXCHANGE_HELD = "exchange_held"
    CONNECTING = "connecting"
    BREAKER_PROBING = "breaker_probing"
    SOME_REFUSED = "some_refused"
    BLOBS_FAIL = "blobs_fail"
    SILENT = "silent"
    ANSWERS_LATE = "answers_late"
    ROUTE_FAILING = "route_failing"
    ROUTE_HELD = "route_held"
    QUEUE_MISSING = "queue_missing"
    DRAIN_STILL = "drain_still"
    SPOOL_FILLS = "spool_fills"
    UNREAD = "unread"
    DEAD = "dead"
    BACKLOG = "backlog"
    CLOCK = "clock"


@dataclass(frozen=True, slots=True)
class Cause:
    """`text` says what is so, `todo` what mends it. `about` is the route or queue; `since` is in seconds."""

    code: Code
    level: Level
    new_tasks: NewTasks
    title: str
    text: str
    todo: str
    about: str = ""
    since: float | None = None

    @property
    def refuses(self) -> bool:
        """Callers are refused, not by chance and not only those of large payloads: nobody should send more here."""
        return self.level is Level.RED and self.new_tasks >= NewTasks.SOME_REFUSED


@dataclass(frozen=True, slots=True)
class Verdict:
    """`causes`, the worst first. `direct`: a new task goes to the broker at once, whatever route may be held."""

    new_tasks: NewTasks
    level: Level
    causes: tuple[Cause, ...]
    direct: bool

    @property
    def refuses(self) -> bool:
        return any(cause.refuses for cause in self.causes)

    @property
    def title(self) -> str:
        """No number in it: a screen reader reads each new title out."""
        return self.causes[0].title if self.causes else "Tasks are getting through"

    @property
    def promise(self) -> str:
        """What becomes of new tasks, for people."""
        return _PROMISES[self.new_tasks]

    def ready(self, link: LinkFacts, *, needs_link: bool) -> bool:
        """Whether an orchestrator should send tasks here. With all reconnect attempts spent it prefers an instance with
        a broker; tasks that come all the same are kept.
        """
        return not self.refuses and (link.connected or not (needs_link or link.exhausted))


_PROMISES: Final = {
    NewTasks.CONFIRMED: "New tasks are confirmed directly.",
    NewTasks.SOME_KEPT: "New tasks are accepted: some are confirmed directly, others kept in the spool.",
    NewTasks.KEPT: "New tasks are accepted and kept in the spool.",
    NewTasks.SOME_REFUSED: "Some new tasks are refused.",
    NewTasks.REFUSED: "New tasks are refused.",
}
_RANK: Final = {code: place for place, code in enumerate(Code)}


def judge(facts: Facts) -> Verdict:
    """Total: any facts have a verdict."""
    found = [*_of_intake(facts), *_of_link(facts.link), *_of_broker(facts), *_of_spool(facts), *_of_room(facts.room)]
    causes = tuple(sorted(found, key=lambda each: (-each.new_tasks, each.level is not Level.RED, _RANK[each.code])))
    worst = causes[0].new_tasks if causes else NewTasks.CONFIRMED
    level = Level.RED if any(each.level is Level.RED for each in causes) else Level.AMBER if causes else Level.GREEN
    return Verdict(worst, level, causes, facts.accepting and facts.passes and not facts.room.error)


def _red(code: Code, new_tasks: NewTasks, title: str, text: str, todo: str) -> Cause:
    return Cause(code, Level.RED, new_tasks, title, text, todo)


def _amber(code: Code, new_tasks: NewTasks, title: str, text: str, todo: str, about: str = "") -> Cause:
    return Cause(code, Level.AMBER, new_tasks, title, text, todo, about)


def _of_intake(facts: Facts) -> Iterator[Cause]:
    """What refuses callers."""
    if not facts.accepting:
        text = "the producer is not started, or is stopping"
        yield _red(Code.NOT_ACCEPTING, NewTasks.REFUSED, "No tasks are accepted", text, "start it, or wait")
    some = NewTasks.SOME_REFUSED if facts.passes else NewTasks.REFUSED
    if facts.room.error:
        todo = "free the disk or bring the store back (ML_SPOOL_URL); it is tried each second"
        yield _red(Code.SPOOL_FAILS, some, "The spool cannot be used", facts.room.error, todo)
    if facts.room.refuses:
        yield _full(facts.room, some)
    refused = [(reason, count) for reason, count in facts.refused if reason not in OWN_FAULTS and count]
    if not refused:
        return
    rates = ", ".join(f"{reason} {count / WINDOW:.1f}/s" for reason, count in refused)
    if not facts.accepted and sum(count for _, count in refused) >= ALL:
        text, todo = f"every call of the last {WINDOW:.0f} s was refused: {rates}", "see the other causes, and the log"
        yield _red(Code.ALL_REFUSED, NewTasks.REFUSED, "New tasks are refused", text, todo)
    else:
        text, todo = f"calls are refused: {rates}", "see the other causes, and the log"
        yield _amber(Code.SOME_REFUSED, NewTasks.SOME_REFUSED, "Some new tasks are refused", text, todo)


def _full(room: Room, some: NewTasks) -> Cause:
    at = f"{room.fill:.1%} of {room.limit}"
    text = f"full: {at}" if room.fill >= 1 else f"it was full, and takes nothing until it has room again: {at}"
    todo = f"end the outage, or raise {room.limit} and start again"
    if some is NewTasks.REFUSED:
        text = f"{text}; and tasks cannot go to the broker"
        return _red(Code.SPOOL_FULL, some, "The spool is full", text, todo)
    text = f"{text}; what is not confirmed at once is refused"
    return _amber(Code.SPOOL_FULL, some, "The spool is full", text, todo)


def _of_link(link: LinkFacts) -> Iterator[Cause]:
    kept, title = NewTasks.KEPT, "Tasks are not getting through"
    if not link.connected:
        if not link.error:
            text = f"not connected to {link.node}: connecting"
            yield _amber(Code.CONNECTING, kept, "Connecting to the broker", text, "wait for the first connect")
        else:
            error = link.error.removeprefix(f"{link.node}: ")
            text = f"not connected to {link.node}: {error}{_next_attempt(link)}"
            todo = "bring the broker back (RABBITMQ_URL); Try now does not wait for the next attempt"
            yield _red(Code.NOT_CONNECTED, kept, title, text, todo)
    elif link.blocked:
        text = blocked_text(link.alarm)
        yield _red(Code.BLOCKED, kept, title, text, "start workers, or free memory and disk of the broker")
    if link.breaker == "open":
        probe = "" if link.probe_in is None else f"; the next probe in {link.probe_in:.0f} s"
        text = f"the circuit breaker is open after {link.failures} failures in a row{probe}"
        yield _red(Code.BREAKER_OPEN, kept, title, text, "look at the broker; to try now: Reset breaker")
    elif link.breaker == "half_open":
        text = "the circuit breaker is half-open: one task at a time tries the broker"
        yield _amber(Code.BREAKER_PROBING, kept, "Trying the broker again", text, "wait for the probe")


def _next_attempt(link: LinkFacts) -> str:
    spent = ". All reconnect attempts are spent: one try at each health check" if link.exhausted else ""
    return spent if link.next_attempt is None else f"{spent}. Next attempt in {link.next_attempt:.0f} s"


def _of_broker(facts: Facts) -> Iterator[Cause]:
    """A broker that is there, and does not do all that it should."""
    some = NewTasks.SOME_KEPT
    if facts.in_flight and facts.silent >= SILENT:
        text = f"{facts.in_flight:,} tasks are in flight, and the broker has answered nothing for {facts.silent:.0f} s"
        todo = "look at the broker's disk and load; see ML_CONFIRM_TIMEOUT"
        yield Cause(Code.SILENT, Level.AMBER, some, "The broker does not answer", text, todo, since=facts.silent)
    for key, wait in facts.late:
        text = f"{key}: its confirms come late, and are waited for up to {wait:.1f} s"
        todo = "look at the broker's disk and load; see ML_CONFIRM_TIMEOUT and ML_CONFIRM_CAP"
        yield _amber(Code.ANSWERS_LATE, some, "The broker answers late", text, todo, key)
    for route in facts.routes:
        yield _held(route)
    for queue in facts.queues:
        if queue.missing:
            text = f"{queue.name}: {queue.missing}"
            todo = "make it and bind it by its name (ML_DECLARE_TOPOLOGY)"
            yield _amber(Code.QUEUE_MISSING, some, "A queue is missing", text, todo, queue.name)
        elif queue.ready and not queue.consumers:
            yield unread(queue)


def unread(queue: SeenQueue) -> Cause:
    """Also of a queue that is empty: `doctor` looks before the first task."""
    text = f"{queue.name}: nobody reads it: its tasks ({queue.ready:,} now) wait until a worker starts"
    todo = "start a Celery worker with this queue"
    return _amber(Code.UNREAD, NewTasks.CONFIRMED, "Nobody reads a queue", text, todo, queue.name)


def _held(route: HeldRoute) -> Cause:
    since, some = f"{route.key}: {route.reason} for {route.since:.0f} s", NewTasks.SOME_KEPT
    todo = "mend the queue, its binding or the rights; see ML_ROUTE_PATIENCE"
    if route.failing:
        code, title = Code.ROUTE_FAILING, "A route fails"
        text = f"{since}, longer than ML_ROUTE_PATIENCE: its tasks spend their attempts"
    else:
        code, title = Code.ROUTE_HELD, "A route is held"
        probe = "a probe is on its way" if route.probe_in is None else f"the next probe in {route.probe_in:.0f} s"
        text = f"{since}; held, {probe}"
        if route.every:
            code, title = Code.EXCHANGE_HELD, "Tasks are not getting through"
            return Cause(code, Level.RED, NewTasks.KEPT, title, text, todo, route.key, route.since)
    return Cause(code, Level.AMBER, some, title, text, todo, route.key, route.since)


def _of_spool(facts: Facts) -> Iterator[Cause]:
    """What goes into the spool, or out of it."""
    if facts.accepting and facts.drain_still > facts.drain_limit + DRAIN_STILL:
        text = f"the drain has begun nothing for {facts.drain_still:.0f} s: what waits stays in the spool"
        yield _amber(Code.DRAIN_STILL, NewTasks.CONFIRMED, "The drain stands still", text, "see the log; start again")
    if facts.blobs_error:
        text = f"the store of large payloads did not take the last one: {facts.blobs_error}"
        title = "Large payloads are refused"
        yield _amber(Code.BLOBS_FAIL, NewTasks.SOME_REFUSED, title, text, "see ML_BLOB_URL")
    if facts.clock_note:
        yield _amber(Code.CLOCK, NewTasks.CONFIRMED, "The clocks differ", facts.clock_note, "set the hosts' clocks")


def _of_room(room: Room) -> Iterator[Cause]:
    well = NewTasks.CONFIRMED
    if room.fill >= FILL_WARNS and not room.refuses:
        full = "" if room.full_in is None else f", full in {room.full_in / 60:.0f} min as it grows now"
        text = f"{room.fill:.1%} of {room.limit}{full}"
        yield _amber(Code.SPOOL_FILLS, well, "The spool is nearly full", text, f"end the outage, or raise {room.limit}")
    if room.dead:
        text = f"{room.dead:,} dead letters to look at"
        yield _amber(Code.DEAD, well, "Some tasks are dead", text, "look at why, then replay or remove them")
    if room.tasks and room.late > 0:
        text = f"{room.tasks:,} in the spool, on the way to the broker or to their next attempt"
        yield _amber(Code.BACKLOG, well, "Tasks wait in the spool", text, "see what is above, or wait")
