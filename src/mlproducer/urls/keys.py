"""The private key of a client's certificate, where a store's URL names it.

OpenSSL asks at the terminal for the pass phrase of an encrypted key, and a service then stands still for ever. So a
client library is always given a pass phrase, and one that is missing is said before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mlproducer.urls.parts import BadUrl

NONE: Final = "-"
"""Given where there is none: an encrypted key is then an error of the client's, and never a prompt."""


def pass_phrase(key: str | None, given: str | None, *, key_name: str, name: str) -> str:
    """What to give the client. `key_name` and `name` are the URL's parameters for the key and its pass phrase.

    Raises: BadUrl, if the key in this file is encrypted and no pass phrase is given.
    """
    if given:
        return given
    if key and _encrypted(Path(key)):
        raise BadUrl(f"the key in `{key_name}` is encrypted: give its pass phrase as `{name}`")
    return NONE


def _encrypted(key: Path) -> bool:
    try:
        return b"ENCRYPTED" in key.read_bytes()
    except OSError:
        return False  # the client says what it cannot read
