"""The user's home folder, in which the spool is unless a setting names another place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from platformdirs import user_data_path

HOMELESS: Final = Path("~/mlproducer")
"""The default of a user without a home: an error only where it would be used."""


def data_dir() -> Path:
    """The user's data folder, or `HOMELESS`."""
    try:
        folder = user_data_path("mlproducer", appauthor=False)
    except RuntimeError:
        return HOMELESS
    if os.environ.get("HOME") == "" and not folder.is_relative_to(os.environ.get("XDG_DATA_HOME") or "?"):
        return HOMELESS  # and not the root folder, which the system's rules make of it
    return folder if folder.is_absolute() else HOMELESS  # older versions of platformdirs leave the ~


def no_home(folder: Path) -> str:
    """Why nothing can be kept in `folder`, the default; empty if it can be."""
    home = os.environ.get("HOME")
    if folder == HOMELESS:
        if home is not None:
            return f"HOME is {home!r}, which is no whole path"
        return "this user has no home folder (HOME is not set, and the system does not know the user id)"
    if home and folder.is_relative_to(home) and not os.path.isdir(home):  # noqa: PTH112  # Path's own raises where it may not look
        return f"HOME is {home}, and this user finds no folder there"
    nearest = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if not os.path.isdir(nearest):  # noqa: PTH112  # as above
        return f"tasks would be kept in {folder}, and {nearest} is no folder"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"tasks would be kept in {folder}, and this user may not write to {nearest}"
    return ""


def expanded(folder: Path) -> Path:
    """With the home folder that its ~ means. Raises: ValueError, if nobody knows that."""
    if folder == HOMELESS:
        return folder
    try:
        return folder.expanduser()
    except RuntimeError:
        raise ValueError("nobody knows the home folder that its ~ means: write the whole path") from None
