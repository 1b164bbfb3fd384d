"""The machine's time and chance."""

from __future__ import annotations

import random
import time


class SystemClock:
    """A `ports.Clock`: the functions themselves, since they are asked several times a task."""

    monotonic = staticmethod(time.monotonic)
    now = staticmethod(time.time)
    random = staticmethod(random.random)
