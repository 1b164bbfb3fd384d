"""Ending what processes hold that ended, in one transaction of the caller's: their leases and their claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, delete, or_, select, update

from mlproducer.spool.bulk import among, chunks
from mlproducer.spool.columns import token_of
from mlproducer.spool.schema import UNCONFIRMED, records, waiting
from mlproducer.spool.transaction import Transaction


def claims_of(connection: Connection, holders: Sequence[str]) -> list[str]:
    """The ids that they claimed. It reads all records: there is no index, which each claim would have to pay for."""
    claims = select(records.c.task_id).where(UNCONFIRMED, _held_by(records.c.token, holders))
    return list(connection.execute(claims).scalars())


def release_held_by(tx: Transaction, holders: Sequence[str], claims: Sequence[str]) -> None:
    """End their leases, and those of their `claims` that still are theirs: they are dead."""
    if not holders:
        return
    leased = update(waiting).where(_held_by(waiting.c.token, holders))
    tx.connection.execute(leased.values(free_at=waiting.c.due_at, token=None))
    for chunk in chunks(claims):
        claimed = among(tx.connection, records.c.task_id, chunk)
        tx.connection.execute(delete(records).where(claimed, UNCONFIRMED, _held_by(records.c.token, holders)))


def release_all(tx: Transaction) -> None:
    """End every lease: nobody lives who may hold one."""
    leased = update(waiting).where(waiting.c.token.is_not(None))
    tx.connection.execute(leased.values(free_at=waiting.c.due_at, token=None))


def _held_by(token: Column[Any], holders: Sequence[str]) -> ColumnElement[bool]:
    # As a range, for which there is an index: whatever begins with the name and the dash, and no more.
    return or_(*(token.between(token_of(who, ""), token_of(who, "~")) for who in holders))
