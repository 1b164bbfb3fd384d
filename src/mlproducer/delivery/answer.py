"""The answer to a direct attempt, for a caller who may go on before it comes."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from mlproducer.outcome import LateAnswer, Outcome, Unsure


class Answer(Struct, eq=False):
    """The outcome of one attempt, which may be there at once: an attempt that is not admitted makes nobody wait."""

    outcome: Outcome | None = None
    waiter: asyncio.Future[None] | None = None
    late: LateAnswer | None = None
    """The caller has gone on, and who has his task listens here."""

    def __call__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        if self.late is not None:
            if isinstance(outcome, Unsure) and outcome.late is not None:
                outcome.late.listen(self.late.tell)
            else:
                self.late.tell(outcome)
            return
        # Done, if the caller was cancelled or in a hurry: nobody was promised anything, and the ledger is whole.
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def wait(self, limit: float | None) -> None:
        """Until the outcome is there, or for `limit` seconds."""
        self.waiter = asyncio.get_running_loop().create_future()
        if limit is None:
            await self.waiter
            return
        try:
            async with asyncio.timeout(limit):
                await self.waiter
        except TimeoutError:
            pass
