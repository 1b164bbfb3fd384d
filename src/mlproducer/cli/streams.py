"""Standard input, output and error as the shell left them: open, closed, or with nobody at the other end."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Final

_STANDARD: Final = (0, 1, 2)


def hold_standard_streams() -> None:
    """Before anything else is opened: a descriptor that was closed at the start (`2>&-`, some supervisors) leads to
    nowhere from now on. Else the next file or socket would have its number, and what is meant for stderr would be
    written into it.
    """
    for descriptor in _STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it takes the lowest number that is free: this one
    # What Python found closed is None. It is never closed again, as the standard streams are not.
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # see above
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # see above


def forget_stdout() -> None:
    """Nobody reads it: what is still buffered leads to nowhere. Else Python fails at flushing it when it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
