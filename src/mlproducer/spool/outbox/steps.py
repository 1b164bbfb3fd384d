"""One add to the outbox, as steps without IO: which statement next, and what its answer means.

Inserted first and looked for after, as all of the spool's writes are (`spool.statements`): the primary key makes the
INSERT wait for another transaction that is putting or settling the same id, and the look, a later statement, sees what
that one committed.

    INSERT ──▶ inserted ──────▶ dead, confirmed, or other content being published? ──▶ no: done
       ▲   └─▶ the id waits ──▶ the same content? ──▶ yes: done       └─▶ yes: take it back
       └── it was drained meanwhile, and nobody remembers it ──┘

A claim of the same content is left alone: to delete it would lock its row for as long as the user's transaction
lasts, and the producer that publishes it would wait. So two cases end in the same task, with the same id, published
twice, which "at least once" allows: that one, and a direct publish of the id between our INSERT and the user's commit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, Final, assert_never

from msgspec import Struct
from sqlalchemy import Executable

from mlproducer.core.digest import content_digest
from mlproducer.errors import SpoolUnavailable, TaskConflict
from mlproducer.ports import Clock
from mlproducer.spool.columns import outbox_columns
from mlproducer.spool.outbox.statements import TAKE_BACK, Place, Statements
from mlproducer.task import Envelope


class Step(Struct, frozen=True):
    """One statement with its parameters."""

    statement: Executable
    parameters: dict[str, object]


Rows = Sequence[Sequence[Any]]
Steps = Generator[Step, Rows, None]
Adding = Callable[[Statements], Steps]
"""The steps of one task, on a database of that kind."""

NO_TRANSACTION: Final = (
    "the connection commits each statement by itself and no transaction is open, so the task could not be committed "
    "together with anything: begin a transaction first, or take the connection out of autocommit"
)
MISSING: Final = (
    "the outbox's tables are not in this database: name it in ML_SPOOL_URL and start a producer once, or call "
    "outbox.create_tables(engine)"
)
OTHER_VERSION: Final = (
    "the outbox's tables in this database are of another version of mlproducer: install the version that its producer "
    "has, or start a producer of this version on it"
)
FORBIDDEN: Final = (
    "this database role may not write the outbox: GRANT it SELECT, INSERT, DELETE on mlproducer_waiting, and SELECT on "
    "mlproducer_dead_letters and mlproducer_records"
)


def adding(ask: Statements, *, envelope: Envelope, clock: Clock, notify: bool) -> Steps:
    """`clock` is the application's: of a file it is also the store's, of a server not.

    Raises, when the database has answered so: TaskConflict; SpoolUnavailable. Then the task is not in it.
    """
    if ask.asks_first:
        _check((yield Step(ask.fits, {})))
    time = {"now_": clock.now(), "monotonic_": clock.monotonic()}
    insert = Step(ask.insert_and_notify if notify else ask.insert, outbox_columns(envelope, time["now_"]) | time)
    looked_for: dict[str, object] = {"id_": envelope.task_id, "digest_": content_digest(envelope), **time}
    content = {"key_": envelope.routing_key, "body_": envelope.body}
    while True:
        try:
            inserted = yield insert
        except Exception:
            if not ask.asks_first:
                _check((yield Step(ask.fits, {})))
            raise
        if not inserted:
            if _is_known((yield Step(ask.find, {**looked_for, **content})), envelope.task_id):
                return
            continue
        try:
            known = _is_known((yield Step(ask.find_elsewhere, looked_for)), envelope.task_id)
        except TaskConflict:
            yield Step(TAKE_BACK, {"id_": envelope.task_id})
            raise
        if known:
            yield Step(TAKE_BACK, {"id_": envelope.task_id})
        return


def run(steps: Steps, execute: Callable[[Step], Rows]) -> None:
    """`execute` runs one statement and fetches its rows. What it raises goes through the steps to the caller."""
    try:
        step = next(steps)
        while True:
            try:
                rows = execute(step)
            except Exception as error:  # noqa: BLE001  # the steps raise it again, or a clearer one
                step = steps.throw(error)
            else:
                step = steps.send(rows)
    except StopIteration:
        return


async def run_async(steps: Steps, execute: Callable[[Step], Awaitable[Rows]]) -> None:
    """As `run`."""
    try:
        step = next(steps)
        while True:
            try:
                rows = await execute(step)
            except Exception as error:  # noqa: BLE001  # the steps raise it again, or a clearer one
                step = steps.throw(error)
            else:
                step = steps.send(rows)
    except StopIteration:
        return


def _check(answer: Rows) -> None:
    there, fits, allowed = answer[0]
    if not there:
        raise SpoolUnavailable(MISSING)
    if not fits:
        raise SpoolUnavailable(OTHER_VERSION)
    if not allowed:
        raise SpoolUnavailable(FORBIDDEN)


def _is_known(found: Rows, task_id: str) -> bool:
    """True if this very task was accepted before. Raises: TaskConflict."""
    if not found:
        return False
    place, same = min((Place(place), bool(same)) for place, same in found)
    match place:
        case Place.DEAD:
            raise TaskConflict(f"task id {task_id} is in the dead letter queue: replay or remove it, or use a new id")
        case Place.WAITING | Place.CONFIRMED | Place.CLAIMED:
            if not same:
                raise TaskConflict(f"task id {task_id} was accepted before with other content; use a new id")
            return place is not Place.CLAIMED
        case _:
            assert_never(place)
