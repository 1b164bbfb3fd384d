"""What the spool writes, in one transaction of the caller's. Plain functions, the same for SQLite and PostgreSQL.

Where an id is, decided without a lock of our own
-------------------------------------------------
An id waits, is dead, has a record, or is unknown, and three tables hold that. SQLite lets one transaction write at a
time, so what is looked up stays true. On PostgreSQL (READ COMMITTED: each *statement* sees what had been committed
when it began) instances write at once, and a look before the write proves nothing:

    A looks: no record of x.  B settles x as done: its row goes, its record comes.  A inserts x: published twice.

So whoever takes an id inserts first and looks after. The primary key makes the insert wait for any other transaction
that is inserting or removing the same id in the same table, and the look, being a later statement, then sees what that
one committed. What must not be there is taken back in the same transaction, so that nobody ever saw it.

- put against put, and put against replay: both insert into `waiting`; the key lets one in.
- put against settle: the put conflicts with the row (False), or waits until the row is gone, gets in, looks, finds the
  record or the dead letter, and takes its row back (False).
- put against confirm of a claim: the put deletes the claim, which waits for a confirm that has updated it; then it is
  no claim any more, and the look finds it (False). If the put was first, the confirm finds the row that waits.
- claim against claim, and claim against confirm or settle: all insert into `records`; the key lets one in.
- claim against put: neither sees the other if they commit at the same moment. Then both were told yes, as they would
  have been one after the other (a put takes the place of a claim), and the claim stays behind as a dead leaf. The same
  may be left by confirm against put. Therefore the rule, here and in `queries`: **where an id waits or is dead, its
  record means nothing**; the row's own end overwrites it, and `forget` removes it.

Rows are locked in order of id wherever many are, so that two groups rarely can wait for each other in a circle; if
they do, PostgreSQL ends one, and `writer` runs that one again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, assert_never

from sqlalchemy import (
    ColumnElement,
    Connection,
    Update,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)

from mlproducer.core.digest import content_digest
from mlproducer.errors import SpoolUnavailable
from mlproducer.rows import (
    Again,
    Bury,
    Claim,
    DeadLetter,
    Done,
    Known,
    NewRow,
    Record,
    Settlement,
    SpoolRow,
)
from mlproducer.spool.bulk import (
    delete_ids,
    ids_in,
    insert_new,
    is_postgresql,
    put_unknown,
    remember,
    run_for,
)
from mlproducer.spool.columns import (
    dead_columns,
    history_text,
    record_values,
    storable,
    waiting_values,
)
from mlproducer.spool.queries import find_row
from mlproducer.spool.schema import UNCONFIRMED, dead_letters, records, waiting
from mlproducer.spool.store_time import SERVER_NOW
from mlproducer.spool.transaction import Transaction

Confirmation = tuple[Claim, float, float]
"""A claim, when it was confirmed (Unix seconds), and for how many seconds to keep its record."""


def _again(due_at: ColumnElement[float]) -> Update:
    again = update(waiting).where(waiting.c.task_id == bindparam("id_")).values(due_at=due_at, free_at=due_at)
    return again.values(
        token=None,
        attempts=bindparam("attempts_"),
        cause=bindparam("cause_"),
        text=bindparam("text_"),
        alone=bindparam("alone_"),
        history=bindparam("history_"),
    )


_DUE_AT: Final = bindparam("due_at_", type_=waiting.c.due_at.type)
_AGAIN: Final = _again(_DUE_AT)
_AGAIN_ON_SERVER: Final = _again(SERVER_NOW + _DUE_AT)
_TOKENS: Final = select(waiting.c.task_id, waiting.c.token).order_by(waiting.c.task_id).with_for_update()
_TOKENS_AT_ONCE: Final = select(func.json_group_object(waiting.c.task_id, waiting.c.token))
"""On SQLite, where each row of an answer is a wait of its own (see `bulk`)."""
_ACCEPTED: Final = select(waiting.c.task_id, waiting.c.accepted_at)
_RECORDS: Final = select(records).order_by(records.c.task_id)
_RECORDS_ON_SERVER: Final = _RECORDS.add_columns(SERVER_NOW.label("now")).with_for_update()
_TURNS: Final = 5
"""How often a claim looks again at an id that others move at the same moments."""


def put_rows(tx: Transaction, rows: Sequence[NewRow]) -> list[bool]:
    """Insert those whose id does not wait, is not dead and not confirmed; they take the place of claims."""
    first: dict[str, NewRow] = {}
    for row in rows:
        first.setdefault(row.envelope.task_id, row)
    new = _put_then_look(tx, first) if is_postgresql(tx.connection) else _put_where_unknown(tx, first)
    if new:
        tx.count(tasks=len(new), size=sum(first[task_id].envelope.size for task_id in new))
        tx.added = True
    return [row.envelope.task_id in new and first[row.envelope.task_id] is row for row in rows]


def _put_then_look(tx: Transaction, rows: Mapping[str, NewRow]) -> set[str]:
    """On PostgreSQL: see the top of this module."""
    new = insert_new(tx.connection, waiting, _values(tx, rows))
    if new:
        delete_ids(tx.connection, records, new, UNCONFIRMED)
        taken = ids_in(tx.connection, new, dead_letters, records)
        delete_ids(tx.connection, waiting, taken)
        new -= taken
    return new


def _put_where_unknown(tx: Transaction, rows: Mapping[str, NewRow]) -> set[str]:
    """On SQLite: nobody else writes meanwhile, so all may be decided within the INSERT. Mostly no id is known."""
    new = put_unknown(tx.connection, _values(tx, rows), dead_letters, records)
    known = rows.keys() - new
    if known:
        recorded = known - ids_in(tx.connection, known, waiting, dead_letters)
        delete_ids(tx.connection, records, recorded, UNCONFIRMED)
        new |= put_unknown(tx.connection, _values(tx, {each: rows[each] for each in recorded}), records)
    return new


def _values(tx: Transaction, rows: Mapping[str, NewRow]) -> list[tuple[object, ...]]:
    due = tx.time.due
    return [waiting_values(row, due(row.delay, row.envelope.eta)) for row in rows.values()]


def settle_rows(tx: Transaction, settlements: Sequence[Settlement]) -> list[bool]:
    """Apply the verdicts of those whose lease still holds."""
    ids = {lease.row.envelope.task_id for lease, _ in settlements}
    tokens = _tokens(tx.connection, ids)
    accepted = _accepted(tx.connection, {lease.row.envelope.task_id for lease, _ in settlements if not lease.token})
    held: list[bool] = []
    done: list[tuple[SpoolRow, Done]] = []
    again: list[tuple[SpoolRow, Again]] = []
    buried: list[tuple[SpoolRow, Bury]] = []
    for lease, verdict in settlements:
        task_id = lease.row.envelope.task_id
        same = bool(lease.token) or accepted.get(task_id) == lease.row.accepted_at
        held.append(same and task_id in tokens and (tokens[task_id] or "") == lease.token)
        if not held[-1]:
            continue
        del tokens[task_id]  # a lease settles once
        match verdict:
            case Done():
                done.append((lease.row, verdict))
            case Again():
                again.append((lease.row, verdict))
            case Bury():
                buried.append((lease.row, verdict))
            case _:
                assert_never(verdict)
    _remove(tx, [row for row, _ in (*done, *buried)])
    remember(tx.connection, [record_values(_record(tx, row, verdict)) for row, verdict in done])
    if again:
        put_back = _AGAIN_ON_SERVER if is_postgresql(tx.connection) else _AGAIN
        tx.connection.execute(put_back, [_again_columns(tx, row, verdict) for row, verdict in again])
    _bury(tx, [_letter(row, verdict) for row, verdict in buried])
    return held


def _tokens(connection: Connection, ids: Iterable[str]) -> dict[str, str | None]:
    """Of those that wait; on PostgreSQL they are locked."""
    tokens: dict[str, str | None] = {}
    if is_postgresql(connection):
        for found in run_for(connection, _TOKENS, waiting.c.task_id, ids):
            tokens.update((row.task_id, row.token) for row in found)
    else:
        for found in run_for(connection, _TOKENS_AT_ONCE, waiting.c.task_id, ids):
            tokens.update(json.loads(found.scalar_one()))
    return tokens


def _accepted(connection: Connection, ids: Iterable[str]) -> dict[str, float]:
    """When each of those that wait was accepted. Not as JSON, in which SQLite rounds."""
    found = run_for(connection, _ACCEPTED, waiting.c.task_id, ids)
    return {row.task_id: row.accepted_at for result in found for row in result}


def claim_rows(tx: Transaction, claims: Sequence[tuple[Claim, float]]) -> list[Known | None]:
    """Each claim with how long it is to hold; for each what `Spool.claim` answers."""
    answers: dict[int, Known | None] = {}
    left = list(enumerate(claims))
    for _ in range(_TURNS + len(claims)):
        if not left:
            return [answers[n] for n in range(len(claims))]
        # One of each id at a time: the second of two equals is to find the first.
        turn = {claim.task_id: (n, claim, hold) for n, (claim, hold) in reversed(left)}
        taken = _claim(tx, [(claim, hold) for _, claim, hold in turn.values()])
        for task_id, (n, _, _) in turn.items():
            known = None if task_id in taken else find_row(tx.connection, tx.time, task_id)
            if known is not None or task_id in taken:
                answers[n] = known
            # Else it was forgotten, released or moved between two of our statements: once more.
        left = [each for each in left if each[0] not in answers]
    raise SpoolUnavailable("the id of this task changes hands at this very moment: ask again")


def _claim(tx: Transaction, claims: Sequence[tuple[Claim, float]]) -> set[str]:
    """The ids, distinct, that are ours now."""
    there, over = _recorded(tx, [claim.task_id for claim, _ in claims])
    delete_ids(tx.connection, records, over)
    fresh = [
        record_values(_claimed(claim, tx.time.after(hold)))
        for claim, hold in claims
        if claim.task_id not in there or claim.task_id in over
    ]
    taken = insert_new(tx.connection, records, fresh)
    kept = ids_in(tx.connection, taken, waiting, dead_letters)
    delete_ids(tx.connection, records, kept)
    return taken - kept


def _recorded(tx: Transaction, ids: Sequence[str]) -> tuple[set[str], set[str]]:
    """Of the ids, those that have a record, and those whose record is a claim that is over. Locked on PostgreSQL."""
    on_server = is_postgresql(tx.connection)
    query = _RECORDS_ON_SERVER if on_server else _RECORDS
    found = [row for result in run_for(tx.connection, query, records.c.task_id, ids) for row in result]
    now = None if on_server else tx.time.now()
    over = {
        row.task_id
        for row in found
        if row.confirmed_at is None and (row.held_until or 0.0) <= (row.now if now is None else now)
    }
    return {row.task_id for row in found}, over


def confirm_rows(tx: Transaction, confirmed: Sequence[Confirmation]) -> None:
    """Of two confirms of one id, the first is the one that is remembered."""
    first: dict[str, Record] = {}
    for claim, confirmed_at, keep in confirmed:
        keep_until = tx.time.after(keep)
        record = Record(claim.task_id, claim.task_type, claim.digest, claim.accepted_at, keep_until, confirmed_at)
        first.setdefault(claim.task_id, record)
    remember(tx.connection, [record_values(record) for record in first.values()])
    delete_ids(tx.connection, records, ids_in(tx.connection, first, waiting, dead_letters))


def release_claim(tx: Transaction, task_id: str, token: str) -> None:
    claim = delete(records).where(records.c.task_id == task_id, UNCONFIRMED, records.c.token == token)
    tx.connection.execute(claim)


def forget_records(tx: Transaction, limit: int) -> int:
    query = select(records.c.task_id).where(records.c.keep_until <= tx.time.now()).order_by(records.c.keep_until)
    over = tx.connection.execute(query.limit(limit).with_for_update(skip_locked=True)).scalars().all()
    delete_ids(tx.connection, records, over)
    return len(over)


def _claimed(claim: Claim, ends: float) -> Record:
    """It is kept for no longer than it holds."""
    return Record(
        claim.task_id, claim.task_type, claim.digest, claim.accepted_at, ends, held_until=ends, token=claim.token
    )


def _remove(tx: Transaction, rows: Sequence[SpoolRow]) -> None:
    delete_ids(tx.connection, waiting, [row.envelope.task_id for row in rows])
    tx.count(tasks=-len(rows), size=-sum(row.envelope.size for row in rows))


def _bury(tx: Transaction, letters: Sequence[DeadLetter]) -> None:
    if not letters:
        return
    # Letters of these ids may be there: the outbox does not ask whether an id is dead. The newer takes its place.
    older = ids_in(tx.connection, [letter.envelope.task_id for letter in letters], dead_letters)
    delete_ids(tx.connection, dead_letters, older)
    tx.connection.execute(insert(dead_letters), [dead_columns(letter) for letter in letters])
    tx.count(dead=len(letters) - len(older))


def _record(tx: Transaction, row: SpoolRow, done: Done) -> Record:
    task = row.envelope
    digest = content_digest(task)
    keep_until = tx.time.after(done.keep)
    return Record(task.task_id, task.task_type, digest, row.accepted_at, keep_until, done.confirmed_at, row.attempts)


def _letter(row: SpoolRow, bury: Bury) -> DeadLetter:
    return DeadLetter(
        row.envelope, row.accepted_at, bury.died_at, bury.attempts, bury.reason, bury.code, bury.text, bury.history
    )


def _again_columns(tx: Transaction, row: SpoolRow, again: Again) -> dict[str, object]:
    return {
        "id_": row.envelope.task_id,
        "due_at_": tx.time.after(again.delay),
        "attempts_": again.attempts,
        "cause_": again.cause,
        "text_": storable(again.text),
        "alone_": int(again.alone),
        "history_": history_text(again.history),
    }
