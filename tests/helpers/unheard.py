"""What asyncio says of errors that nobody asked for: nothing, if each has an owner."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def nothing_unheard() -> AsyncIterator[None]:
    """Within it no error comes to the event loop's handler, at once or from the garbage collector, and no task of the
    product is left.
    """
    loop = asyncio.get_running_loop()
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    gc.freeze()  # what is older than the test need not be walked at its end
    before = asyncio.all_tasks()
    try:
        yield
        await asyncio.sleep(0.01)
        gc.collect()
        left = [task for task in asyncio.all_tasks() - before if "/mlproducer/" in str(task.get_stack()) + repr(task)]
        assert not left, left
        assert not told, told
    finally:
        gc.unfreeze()
        loop.set_exception_handler(None)
