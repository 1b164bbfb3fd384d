"""From `ML_BLOB_URL` to a store."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import unquote

from mlproducer.blobs.folder import FolderBlobs
from mlproducer.blobs.port import BlobStore
from mlproducer.blobs.remote import WHOLE, RemoteBlobs
from mlproducer.errors import SettingsError
from mlproducer.urls.parts import BadUrl, Host, Url, read_url

_CONTAINERS: Final = ("az", "abfs", "abfss")
"""Azure's: what stands before the @ is a container."""
_RULE: Final = "it must be an absolute path, file:///path, s3://bucket/prefix, or another URL that fsspec knows"


def open_blobs(url: str, *, timeout: float = 30.0) -> BlobStore:
    """The store that `url` names; nothing is written or connected to yet.

    `timeout` is in seconds, for each step of a request to a remote store.

    Raises: SettingsError, naming `ML_BLOB_URL`.
    """
    scheme, colon, _ = url.partition("://")
    if not colon:
        return FolderBlobs(_absolute(url))
    scheme = scheme.lower()
    match scheme:
        case "file" | "local":
            # Two slashes and a name would be a host (RFC 8089), and what was meant was a path.
            read = _read(url, scheme)
            if read.hosts != (Host(""),) or read.user is not None:
                raise SettingsError(f"ML_BLOB_URL: {_RULE}")
            return FolderBlobs(_absolute(unquote(read.path)))
        case "memory":
            raise SettingsError(f"ML_BLOB_URL: memory:// is in one process, where no worker can read it; {_RULE}")
        case "" | "http" | "https":
            raise SettingsError(f"ML_BLOB_URL: {_RULE}")
        case _:
            read = _read(url, scheme)
            if not read.host.name:
                raise SettingsError(f"ML_BLOB_URL: {scheme}:// needs a bucket or host, such as {scheme}://name/prefix")
            return RemoteBlobs(url, read, timeout=timeout)


def _read(url: str, scheme: str) -> Url:
    """Whatever the libraries of fsspec would drop or misread is refused; they take a path as it stands."""
    try:
        read = read_url(url, (scheme,), like=f"{scheme}://name/prefix")
        read.parameters(())
    except BadUrl as error:
        raise SettingsError(f"ML_BLOB_URL: {error}") from None
    if scheme in WHOLE and (read.password is not None or (read.user is not None and scheme not in _CONTAINERS)):
        raise SettingsError(
            f"ML_BLOB_URL: {scheme}:// takes no login: its library reads the credentials from the environment"
        )
    return read


def _absolute(text: str) -> Path:
    if not text.startswith("/"):
        raise SettingsError(f"ML_BLOB_URL: {_RULE}")
    return Path(text)
