"""What the spool knows of an id, told as a receipt, or as the reason why there is no such row."""

from __future__ import annotations

import pytest

from mlproducer.delivery.lookup import dead_letter, receipt_of, waiting_task
from mlproducer.errors import NotFound
from mlproducer.rows import Audit, Claim, DeadLetter, Known, NewRow, Record, SpoolRow
from mlproducer.spool.memory import MemorySpool
from mlproducer.task import Envelope, Receipt, TaskState

NOW = 1_800_000_000.0
TASK = Envelope("t", "embed_vectors", "ml.embed", b"", b"x")
CLAIM = Claim("t", "embed_vectors", b"", NOW, "me")
DIED = DeadLetter(TASK, NOW, NOW + 2, 3, "nacked", None, "full")


def told(state: TaskState, **given: object) -> Receipt:
    return Receipt("t", "embed_vectors", state, NOW, **given)  # type: ignore[arg-type]  # the caller's own fields


def record(**given: object) -> Record:
    return Record("t", "embed_vectors", b"", NOW, NOW + 100, **given)  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize(
    ("found", "receipt"),
    [
        (None, None),
        (
            SpoolRow(TASK, NOW, NOW + 9, 1, "nacked", "full"),
            told(TaskState.SPOOLED, attempts=1, reason="full", next_attempt_at=NOW + 9),
        ),
        (
            SpoolRow(TASK, NOW, NOW + 9, cause="not_connected"),
            told(TaskState.SPOOLED, reason="not_connected", next_attempt_at=NOW + 9),
        ),
        (DIED, told(TaskState.DEAD, attempts=3, reason="full")),
        (
            DeadLetter(TASK, NOW, NOW + 2, 0, "expired", None, ""),
            told(TaskState.EXPIRED, reason="expired"),
        ),
        (record(confirmed_at=NOW + 1, attempts=2), told(TaskState.CONFIRMED, confirmed_at=NOW + 1, attempts=2)),
        (
            record(held_until=NOW + 5.1, token="me"),
            told(TaskState.IN_FLIGHT, reason="another call or instance is publishing it now"),
        ),
        (record(held_until=NOW + 5, token="me"), None),
    ],
)
def test_each_place_of_a_task_is_a_state_of_its_receipt(found: Known | None, receipt: Receipt | None) -> None:
    assert receipt_of(found, now=NOW + 5) == receipt


async def test_what_is_elsewhere_is_not_found_here_and_told_where_it_is() -> None:
    spool = MemorySpool()
    with pytest.raises(NotFound, match=r"^no dead letter t$"):
        await dead_letter(spool, "t")
    await spool.claim(CLAIM, hold=5)
    with pytest.raises(NotFound, match="it is being published now"):
        await waiting_task(spool, "t")
    await spool.confirm(CLAIM, confirmed_at=NOW + 1, keep=0)
    with pytest.raises(NotFound, match="it is confirmed"):
        await waiting_task(spool, "t")
    await spool.forget(limit=1)
    await spool.put(NewRow(TASK, NOW))
    with pytest.raises(NotFound, match="it waits in the retry queue"):
        await dead_letter(spool, "t")
    assert (await waiting_task(spool, "t")).envelope == TASK
    spool._dead["t"] = DIED
    del spool._rows["t"]
    with pytest.raises(NotFound, match="it is in the dead letter queue"):
        await waiting_task(spool, "t")
    assert await dead_letter(spool, "t") == DIED
    await spool.purge(Audit(NOW, "ada", "purge", "by id", ("t",)))
    with pytest.raises(NotFound, match=r"^no task t waits in the retry queue$"):
        await waiting_task(spool, "t")
