"""A small file system of its own, to be filled: mounted in a mount namespace that ends with the processes in it.

Nobody else sees the mount, and nothing is left of it. The processes within are reached through `/proc`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

MEGABYTE = 1024 * 1024


def enter(mount: str, folder: Path) -> list[str]:
    """The command that a program is run under; `mount` ends before the folder."""
    # Without root, in a user namespace of our own, where we are root.
    unshare = ["unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",))]
    return [*unshare, "sh", "-c", f'{mount} {shlex.quote(str(folder))} && exec "$@"', "small-disk"]


def tmpfs(folder: Path, size: int) -> list[str]:
    folder.mkdir()
    return enter(f"mount -t tmpfs -o size={size} small", folder)


def ext4(folder: Path, size: int) -> list[str]:
    """On a loop device, which is let go of with the mount."""
    folder.mkdir()
    image = folder.with_suffix(".image")
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True, stdout=subprocess.DEVNULL)
    return enter(f"mount -o loop {shlex.quote(str(image))}", folder)


def refusal(command: list[str]) -> str:
    """Why this machine does not let us mount; "" if it does."""
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() or "unshare failed" if tried.returncode else ""


def seen_from(pid: int, path: Path) -> Path:
    """`path` as the process sees it."""
    return Path(f"/proc/{pid}/root{path}")
