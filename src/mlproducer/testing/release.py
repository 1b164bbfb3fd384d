"""Programs of another Debian release, from a root: a folder as `debootstrap` makes one, beside the machine's system.

A command runs in a mount namespace of its own, in which the root's `/etc` and `/usr` lie over the machine's. All else
is the machine's: network, processes, `/tmp`, the working tree. So a path means the same within and without, a process
is signalled by the same id, and when the command ends its mounts are gone: nothing is left behind. Linux with `unshare`
(util-linux) only, as root or where a user may make namespaces.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

SYSTEM: Final = ("etc", "usr")
"""Needed to run a root's programs. `/bin`, `/lib` and `/sbin` are links into `/usr` in every Debian since 12."""

# `/usr` comes last: from then on each program, `mount` among them, is the root's own. `exec` keeps the process id.
_SCRIPT: Final = """
set -e
root=$1 folders=$2
shift 2
for folder in $folders; do mount --bind "$root/$folder" "/$folder"; done
exec "$@"
"""


def inside(root: Path | None, command: Sequence[str | Path], folders: Sequence[str] = SYSTEM) -> list[str]:
    """The command line that runs `command` with the programs of `root`; the command as it is without one.

    `folders` are laid over the machine's in this order. A package manager needs `var` before `usr` too. What the
    command reads of the machine must not lie in one of them.
    """
    words = [str(word) for word in command]
    if root is None:
        return words
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    return [*namespace, "sh", "-c", _SCRIPT, "sh", str(root.absolute()), " ".join(folders), *words]
