"""Purges of dead letters, by whomever: counted from the spool's audit.

The command line and other producers on the spool remove dead letters without our hearing of it. Whoever adds up where
accepted tasks are has to know of those as well, or they look lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mlproducer.ports import Spool
from mlproducer.rows import Audit

PAGE: Final = 20
"""Audits read at once; each has up to a chunk's worth of ids."""


class Purges:
    """`told` hears how many dead letters were purged since the last look; the first look only remembers where it is."""

    def __init__(self, spool: Spool, told: Callable[[int], None]) -> None:
        self._spool = spool
        self._told = told
        self._begun = False
        self._newest: Audit | None = None

    async def look(self) -> None:
        """Raises: SpoolUnavailable; then the next look counts what this one did not."""
        newest = next(iter(await self._spool.audits(limit=1)), None)
        if self._begun and newest is not None and newest != self._newest:
            fresh = await self._fresh(self._newest)
            newest = fresh[0] if fresh else newest
            purged = sum(len(audit.task_ids) for audit in fresh if audit.action == "purge")
            if purged:
                self._told(purged)
        self._begun, self._newest = True, newest

    async def _fresh(self, known: Audit | None) -> list[Audit]:
        """Those that came after `known`, newest first."""
        fresh: list[Audit] = []
        offset = 0
        while page := await self._spool.audits(limit=PAGE, offset=offset):
            for audit in page:
                if audit == known:
                    return fresh
                # Race: one that comes while we turn pages pushes what we have read onto the next page.
                if audit not in fresh:
                    fresh.append(audit)
            offset += len(page)
        # The end came before what we knew: the store is another one, or was brought back from a backup. Whose purges
        # these are nobody can say.
        return fresh if known is None else []
