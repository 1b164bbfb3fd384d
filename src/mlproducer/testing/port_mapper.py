"""Erlang's port mapper (epmd): by it the nodes of one machine find each other. A private one, on loopback only."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from mlproducer.testing.release import inside

_EPMD: Final = "/usr/bin/epmd"


class PortMapper:
    """One process. Nodes of different mappers know nothing of each other."""

    def __init__(self, port: int, root: Path | None = None) -> None:
        self.port = port
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Nothing if it runs."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(  # noqa: S603  # our own arguments
                inside(self._root, [_EPMD, "-port", str(self.port), "-address", "127.0.0.1"]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C at the terminal is for us, who stop it in order
            )

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
