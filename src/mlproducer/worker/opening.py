"""Stores that are opened when they are first needed, once in each process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from mlproducer.errors import SettingsError

Store = TypeVar("Store")


class PerProcess(Generic[Store]):
    """What `make(url)` gives, made anew after a fork: a pool of processes must not share one connection.

    Without a `url`, the environment variable `name` is read at the first use. Raises then: SettingsError.
    """

    def __init__(self, given: str | Store | None, name: str, make: Callable[[str], Store]) -> None:
        self._given = given
        self._name = name
        self._make = make
        self._lock = threading.Lock()
        self._made: tuple[int, Store] | None = None
        self._before_fork: tuple[int, Store] | None = None

    def __call__(self) -> Store:
        given = self._given
        if given is not None and not isinstance(given, str):
            return given
        made = self._made
        if made is None or made[0] != os.getpid():
            with self._lock:
                made = self._made
                if made is None or made[0] != os.getpid():
                    # Kept, because to drop it here would close the connection of the process that we come from.
                    self._before_fork = made
                    made = self._made = (os.getpid(), self._make(given or self._from_environment()))
        return made[1]

    def _from_environment(self) -> str:
        url = os.environ.get(self._name, "")
        if not url:
            raise SettingsError(f"{self._name}: is not set for this worker; set it, or give the URL in the code")
        return url
