"""Where a task may go from where it is.

A task is in exactly one place. `ACCEPTED` is the moment between the call and the first attempt or the spool; a
receipt is only ever given in `CONFIRMED` or `SPOOLED` (or later, when asked). Nothing leaves `CONFIRMED`. A dead or
expired task is kept until a person replays it (or removes it, which ends its record).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from mlproducer.task import TaskState


class Move(StrEnum):
    PUBLISH = "publish"
    CONFIRM = "confirm"
    SPOOL = "spool"
    BURY = "bury"
    EXPIRE = "expire"
    REPLAY = "replay"


MOVES: Final[dict[tuple[TaskState, Move], TaskState]] = {
    (TaskState.ACCEPTED, Move.PUBLISH): TaskState.IN_FLIGHT,
    (TaskState.ACCEPTED, Move.SPOOL): TaskState.SPOOLED,
    (TaskState.IN_FLIGHT, Move.CONFIRM): TaskState.CONFIRMED,
    (TaskState.IN_FLIGHT, Move.SPOOL): TaskState.SPOOLED,
    (TaskState.IN_FLIGHT, Move.BURY): TaskState.DEAD,
    (TaskState.IN_FLIGHT, Move.EXPIRE): TaskState.EXPIRED,
    (TaskState.SPOOLED, Move.PUBLISH): TaskState.IN_FLIGHT,
    (TaskState.SPOOLED, Move.BURY): TaskState.DEAD,
    (TaskState.SPOOLED, Move.EXPIRE): TaskState.EXPIRED,
    (TaskState.DEAD, Move.REPLAY): TaskState.SPOOLED,
    (TaskState.EXPIRED, Move.REPLAY): TaskState.SPOOLED,
}


class IllegalMove(Exception):
    """A bug in the caller: the table has no such move. Nothing was changed."""


def advance(state: TaskState, move: Move) -> TaskState:
    """The state after `move`. Raises: IllegalMove."""
    try:
        return MOVES[state, move]
    except KeyError:
        raise IllegalMove(f"a task that is {state} cannot {move}") from None
