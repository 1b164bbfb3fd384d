"""Prometheus's own checker, from Debian's package."""

from __future__ import annotations

import subprocess
from pathlib import Path


def promtool(*words: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *words], input=stdin, capture_output=True, text=True, timeout=100, check=False)
