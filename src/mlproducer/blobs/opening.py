"""From `ML_BLOB_URL` to a store."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from mlproducer.blobs.folder import FolderBlobs
from mlproducer.blobs.port import BlobStore
from mlproducer.blobs.remote import RemoteBlobs
from mlproducer.errors import SettingsError

_RULE: Final = "it must be an absolute path, file:///path, s3://bucket/prefix, or another URL that fsspec knows"


def open_blobs(url: str, *, timeout: float = 30.0) -> BlobStore:
    """The store that `url` names; nothing is written or connected to yet.

    `timeout` is in seconds, for each step of a request to a remote store.

    Raises: SettingsError, naming `ML_BLOB_URL`.
    """
    scheme, colon, rest = url.partition("://")
    if not colon:
        return FolderBlobs(_absolute(url))
    match scheme:
        case "file" | "local":
            # Two slashes and a name would be a host (RFC 8089), and what was meant was a path.
            return FolderBlobs(_absolute(unquote(rest)))
        case "memory":
            raise SettingsError(f"ML_BLOB_URL: memory:// is in one process, where no worker can read it; {_RULE}")
        case "" | "http" | "https":
            raise SettingsError(f"ML_BLOB_URL: {_RULE}")
        case _ if not urlsplit(url).netloc:
            raise SettingsError(f"ML_BLOB_URL: {scheme}:// needs a bucket or host, such as {scheme}://name/prefix")
        case _:
            return RemoteBlobs(url, timeout=timeout)


def _absolute(text: str) -> Path:
    if not text.startswith("/"):
        raise SettingsError(f"ML_BLOB_URL: {_RULE}")
    return Path(text)
