"""Processes that begin their work at the same moment."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence


async def run_together(command: Sequence[str], processes: int) -> list[list[str]]:
    """The words that each printed. Each says `ready` first, and then waits for a line on its stdin. All must end well."""
    started = [await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE) for _ in range(processes)]
    for each in started:
        assert each.stdout is not None
        assert await each.stdout.readline() == b"ready\n"
    return list(await asyncio.gather(*map(_words, started)))


async def _words(process: Process) -> list[str]:
    printed, _ = await process.communicate(b"begin\n")
    assert process.returncode == 0
    return printed.decode().split()
