"""The time of a SQLite file: `LoneTime`, kept with the file, for all processes of the machine that use it.

The file has `origin`, so that all of them have one time, and that a claim of one that was killed ends when it should.
It has `mark`, a moment that had come when something was last written, give or take `MARK_EVERY`. A machine that starts
again counts its monotonic clock from zero; where that leads to before the mark, time goes on at the mark. So what
waits for a second waits a little longer, at most, and nothing waits for a clock that was set back while the machine was
off.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, Engine

from mlproducer.ports import Clock
from mlproducer.spool.lone_time import STEP, LoneTime

MARK_EVERY: Final = 10.0

_READ: Final = "SELECT origin, skew, mark FROM mlproducer_clock"
_WRITE: Final = "INSERT OR REPLACE INTO mlproducer_clock (id, origin, skew, mark) VALUES (1, ?, ?, ?)"
_MARK: Final = "UPDATE mlproducer_clock SET mark = max(mark, ?)"
_SKEW: Final = "UPDATE mlproducer_clock SET skew = ?"
_LATEST: Final = "SELECT max(accepted_at) FROM mlproducer_waiting"
_ETAS: Final = """
    UPDATE mlproducer_waiting SET due_at = eta - :skew, free_at = eta - :skew, first_due_at = eta - :skew
    WHERE eta IS NOT NULL AND token IS NULL AND free_at > :now AND abs(due_at - (eta - :before)) < :step
"""
"""What waits for its eta. An application, which puts rows too, may know the skew a little better than the file does."""


class FileTime(LoneTime):
    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._spanned = False
        self._marked = self.now()

    def begin(self, connection: Connection, *, owner: bool) -> None:
        """As the file has it; `owner` begins it in a new file, and after a start of the machine. Within a transaction.

        A file of before this table may hold rows that were accepted before the wall clock was set back.
        """
        found = connection.exec_driver_sql(_READ).first()
        if found is None:
            latest = connection.exec_driver_sql(_LATEST).scalar() or 0.0
            self.origin += max(0.0, latest - self.now())
            before = 0.0
        else:
            self.origin, before, mark = found
            self.origin += max(0.0, mark - self.now())
        self.skew = before
        self.skew = self._put_right(connection) if owner else self.step() or before
        self._marked = self.now()
        if owner:
            connection.exec_driver_sql(_WRITE, (self.origin, self.skew, self._marked))

    def after(self, span: float) -> float:
        self._spanned = True
        return self.now() + span

    def due(self, delay: float, eta: float | None) -> float:
        self._spanned = True
        return super().due(delay, eta)

    def look(self, writing: Engine) -> None:
        if self.step() is not None:
            with writing.begin() as connection:
                skew = self._put_right(connection)
                connection.exec_driver_sql(_SKEW, (skew,))
            self.skew = skew

    def note(self, connection: Connection) -> None:
        """Only where a span was stored, so that an idle spool writes nothing."""
        spanned, self._spanned = self._spanned, False
        now = self.now()
        if spanned and now - self._marked >= MARK_EVERY:
            connection.exec_driver_sql(_MARK, (now,))
            self._marked = now

    def _put_right(self, connection: Connection) -> float:
        """What waits for its eta waits until the wall clock has it; what was due stays due. The skew from now on.

        Another process may have done it: then the file has that skew, and no row has the old one.
        """
        skew = self.step()
        if skew is None:
            return self.skew
        found = connection.exec_driver_sql(_READ).first()
        before = 0.0 if found is None else found.skew
        if abs(skew - before) <= STEP:
            return float(before)
        connection.exec_driver_sql(_ETAS, {"skew": skew, "before": before, "now": self.now(), "step": STEP})
        return skew
