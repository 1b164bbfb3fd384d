"""Publishes the tasks of a share as one group, once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self

from mlproducer.envelope.encode import Encoder
from mlproducer.envelope.types import TaskTypes
from mlproducer.errors import RefusedTask
from mlproducer.settings import Settings
from mlproducer.shares.plan import Preferences, embedding, group_of, plan, summary, transcript
from mlproducer.shares.share import Share
from mlproducer.task import Receipt, Task

Publish = Callable[[Task], Awaitable[Receipt]]
Check = Callable[[Task], object]
"""Raises InvalidTask for a task that `Publish` would refuse as invalid, without accepting anything."""


@dataclass(frozen=True, slots=True)
class ShareReceipt:
    """`receipts` are in the order of the plan; none if the share needs no task."""

    share_id: str
    root_id: str
    group: str
    receipts: tuple[Receipt, ...]


class ShareIncomplete(RefusedTask):
    """Some tasks of a share were accepted and others refused for want of room, not for what they are.

    `receipts` are those that are safe. `refused` maps the ids of the others, which are nowhere, to the reason.
    Processing the same share again publishes those alone, under the same ids. `retry_after` is in seconds.
    """

    def __init__(self, share_id: str, receipts: tuple[Receipt, ...], refused: dict[str, RefusedTask]) -> None:
        first = next(iter(refused.values()))
        total = len(receipts) + len(refused)
        super().__init__(
            f"share {share_id}: {len(receipts)} of {total} tasks are accepted, the others refused ({first}); "
            "process the same share again to complete it"
        )
        self.share_id = share_id
        self.receipts = receipts
        self.refused = refused
        self.retry_after: float | None = max(
            (wait for error in refused.values() if (wait := getattr(error, "retry_after", None)) is not None),
            default=None,
        )


class ShareProcessor:
    """`await processor.process(share)`: plan it, check every task of it, publish them together.

    Receipts of the last `remembered` tasks are kept: the same share again gives its first receipts, and publishes
    nothing. Beyond that memory, or after a restart, the deterministic task ids let the producer recognise what it
    still knows, and let workers recognise the rest.
    """

    def __init__(
        self,
        publish: Publish,
        preferences: Preferences | None = None,
        *,
        check: Check | None = None,
        remembered: int = 30_000,
    ) -> None:
        self._publish = publish
        self._preferences = Preferences() if preferences is None else preferences
        self._check = check
        self._remembered = remembered
        self._recent: OrderedDict[str, Receipt] = OrderedDict()

    @classmethod
    def from_settings(cls, publish: Publish, settings: Settings, types: TaskTypes | None = None) -> Self:
        """`types` is the producer's registry; without it, that of the settings. Raises: SettingsError."""
        encoder = Encoder(types or TaskTypes.chosen(settings), "mlproducer", settings.ml_max_message_bytes)
        preferences = Preferences(allow_private_media=settings.ml_allow_private_media)
        return cls(publish, preferences, check=encoder.encode)

    async def process(self, share: Share) -> ShareReceipt:
        """Publish what `share` needs.

        Raises:
            InvalidTask: something of the share is wrong (`field` says what); nothing was accepted.
            RefusedTask: of another kind; nothing was accepted.
            ShareIncomplete: a part was accepted.
        """
        return await self._publish_all(share, plan(share, self._preferences))

    async def embed(self, share: Share) -> ShareReceipt:
        """The embedding alone, whatever the share's options allow. Raises: as `process`."""
        return await self._publish_all(share, (embedding(share, self._preferences),))

    async def summarize(self, share: Share) -> ShareReceipt:
        """The summary alone, however short the text is. Raises: as `process`."""
        return await self._publish_all(share, (summary(share, self._preferences),))

    async def transcribe(self, share: Share) -> ShareReceipt:
        """The transcript alone. Raises: as `process`."""
        return await self._publish_all(share, (transcript(share, self._preferences),))

    async def _publish_all(self, share: Share, tasks: Sequence[Task]) -> ShareReceipt:
        if self._check is not None:
            for task in tasks:
                self._check(task)
        # Race: two calls for the same share both find nothing remembered, and publish the same ids with the same
        # content at once. The producer accepts an id once and answers both: no lock is needed here.
        async with asyncio.TaskGroup() as group:
            running = [(task, group.create_task(self._one(task))) for task in tasks]
        results = [(task, job.result()) for task, job in running]
        receipts = tuple(result for _, result in results if isinstance(result, Receipt))
        refused = {task.id: result for task, result in results if isinstance(result, RefusedTask)}
        if refused and not receipts:
            raise next(iter(refused.values()))
        if refused:
            raise ShareIncomplete(share.id, receipts, refused)
        root = group_of(share.id)
        return ShareReceipt(share.id, root, root, receipts)

    async def _one(self, task: Task) -> Receipt | RefusedTask:
        """Refusals are returned: raised, one would make the group cancel its siblings, whose fate would be unknown."""
        known = self._recent.get(task.id)
        if known is not None:
            self._recent.move_to_end(task.id)
            return known
        try:
            receipt = await self._publish(task)
        except RefusedTask as error:
            return error
        self._recent[task.id] = receipt
        if len(self._recent) > self._remembered:
            self._recent.popitem(last=False)
        return receipt
