"""Counters over SQLAlchemy Core: plain functions, the same for SQLite and PostgreSQL.

Many instances add to the same rows. Each takes them in order of their keys, so none waits for another in a circle, and
an id decides, by its primary key, which of two equal tallies is the one that counts: the second waits for the first's
commit, and then finds it.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import BigInteger, Connection, cast, delete, func, literal, select

from mlproducer.core.counting import merged
from mlproducer.rows import CountKey, Counts, Tally
from mlproducer.spool.bulk import add_up, among, chunks, insert_new
from mlproducer.spool.columns import storable
from mlproducer.spool.schema import counted
from mlproducer.spool.schema import counts as sums
from mlproducer.spool.transaction import Transaction


def count_tallies(tx: Transaction, tallies: Sequence[Tally]) -> list[bool]:
    """Add those whose id is new; of two with one id, the first."""
    first: dict[str, Tally] = {}
    for tally in tallies:
        first.setdefault(tally.id, tally)
    new = insert_new(tx.connection, counted, [(each.id, tx.time.after(each.keep)) for each in first.values()])
    added = merged(first[each].counts for each in new)
    add_up(tx.connection, sums, [_values(key, number) for key, number in added.items()])
    return [tally.id in new and first[tally.id] is tally for tally in tallies]


def read_counts(connection: Connection, since: int, until: int, *, hourly: bool) -> Counts:
    within = (sums.c.hour >= since, sums.c.hour < until)
    if hourly:
        query = select(sums).where(*within)
    else:
        # Sums of big integers are decimals in PostgreSQL.
        total = cast(func.sum(sums.c.total), BigInteger)
        labels = (sums.c.task_type, sums.c.kind, sums.c.label)
        query = select(literal(since), *labels, total).where(*within).group_by(*labels)
    return {CountKey(*key): number for *key, number in connection.execute(query)}


def forget_counts(tx: Transaction, before: int, limit: int) -> int:
    tx.connection.execute(delete(sums).where(sums.c.hour < before))
    query = (
        select(counted.c.id).where(counted.c.keep_until <= tx.time.now()).order_by(counted.c.keep_until).limit(limit)
    )
    over = tx.connection.execute(query.with_for_update(skip_locked=True)).scalars().all()
    for chunk in chunks(over):
        tx.connection.execute(delete(counted).where(among(tx.connection, counted.c.id, chunk)))
    return len(over)


def _values(key: CountKey, number: int) -> tuple[object, ...]:
    """In the order of `schema.counts`."""
    return key.hour, storable(key.task_type), key.kind, storable(key.label), number
