"""Blobs in S3 and in whatever else fsspec reaches."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from mlproducer.blobs.port import FRESH, Blob
from mlproducer.envelope.reference import is_key
from mlproducer.errors import BlobStoreUnavailable, NotFound, SettingsError
from mlproducer.redact import redact_text, remember_environment
from mlproducer.urls.parts import Url

WHOLE: Final = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss"})
"""Object stores: a put appears whole or not at all. Elsewhere a blob is written under another name and moved."""
_INCOMING: Final = "incoming"
_SHOWN: Final = 200


class RemoteBlobs:
    """A `BlobStore` at an fsspec URL such as `s3://bucket/prefix`. Credentials come from the environment, as the
    store's own library reads them (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL` …), and never from the URL of a message.
    `parts` is the URL, read.

    `timeout` is in seconds, for each step of a request, where the library can be told one.

    Raises: SettingsError, if the library for the URL is not installed.
    """

    def __init__(self, url: str, parts: Url, *, timeout: float) -> None:
        remember_environment(os.environ)
        self._shown = f"{parts.scheme}://{parts.host.shown(None)}{parts.path}"
        self._whole = parts.scheme in WHOLE
        try:
            from fsspec.core import url_to_fs  # type: ignore[import-untyped]  # noqa: PLC0415  # an optional dependency

            self._fs: Any
            self._fs, root = url_to_fs(url, **_options(parts.scheme, timeout))
        except Exception as error:  # some connect here, and each has its own kinds of errors
            raise SettingsError(
                f"ML_BLOB_URL: {parts.scheme}:// cannot be used ({_said(error)}): "
                "pip install 'mlproducer[blobs]', and the fsspec library of that store"
            ) from error
        self._root = str(root).rstrip("/")

    def __repr__(self) -> str:
        return f"RemoteBlobs({self._shown!r})"

    def put(self, key: str, data: bytes | memoryview) -> None:
        path = self._path(key)
        with self._explained("written"):
            if self._is_fresh(path, len(data)):
                return
            if self._whole:
                self._fs.pipe_file(path, bytes(data))
                return
            half = f"{self._root}/{_INCOMING}/{key.rpartition('/')[2]}-{time.time_ns()}"
            for place in (half, path):
                self._fs.makedirs(place.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(half, bytes(data))
            self._fs.mv(half, path)

    def get(self, key: str, limit: int) -> bytes:
        path = self._path(key)
        with self._explained("read"):
            try:
                return bytes(self._fs.cat_file(path, start=0, end=limit))
            except FileNotFoundError as error:
                # A bucket that is missing is told with the same error.
                if self._fs.exists(self._root):
                    raise NotFound(f"no blob {key} in {self._shown}") from error
                raise

    def delete(self, key: str, *, older_than: float) -> bool:
        path = self._path(key)
        with self._explained("cleaned"):
            found = self._info(path)
            # Between this look and the removal is a round trip, in which the payload may be published again: see
            # docs/workers.md, which says what to leave to the store's own rules.
            if found is None or _written_at(found) >= older_than:
                return False
            self._fs.rm_file(path)
            return True

    def older_than(self, moment: float) -> Iterator[Blob]:
        """Folder by folder of the first level, so that a listing holds one in 256."""
        with self._explained("read"):
            try:
                folders = self._fs.ls(self._root, detail=False)
            except FileNotFoundError:
                return
            for folder in folders:
                for path, found in self._fs.find(folder, detail=True).items():
                    key = path.removeprefix(f"{self._root}/")
                    if is_key(key) and _written_at(found) < moment:
                        yield Blob(key, int(found["size"]), _written_at(found))

    def _path(self, key: str) -> str:
        if not is_key(key):
            raise ValueError("no key of a blob")
        return f"{self._root}/{key}"

    def _info(self, path: str) -> dict[str, Any] | None:
        try:
            self._fs.invalidate_cache()
            found: dict[str, Any] = self._fs.info(path)
        except FileNotFoundError:
            return None
        return found

    def _is_fresh(self, path: str, size: int) -> bool:
        found = self._info(path)
        return found is not None and found["size"] == size and 0 <= time.time() - _written_at(found) < FRESH

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Every library raises its own kinds of errors; whatever it is, the store cannot be used."""
        try:
            yield
        except (NotFound, BlobStoreUnavailable):
            raise
        except Exception as error:
            raise BlobStoreUnavailable(
                f"the blob store {self._shown} cannot be {what} ({_said(error)}): does it answer, does the bucket "
                "exist, and may these credentials use it? See ML_BLOB_URL"
            ) from error


def _said(error: Exception) -> str:
    # Redacted first: of a secret that was cut in two, nobody would know the half that is left.
    return redact_text(f"{type(error).__name__}: {error}")[:_SHOWN].encode("unicode_escape").decode()


def _options(scheme: str, timeout: float) -> dict[str, Any]:
    """A store instance of our own, which trusts no listing that it keeps."""
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if scheme in {"s3", "s3a"}:
        retries = {"total_max_attempts": 2, "mode": "standard"}
        options["config_kwargs"] = {"connect_timeout": timeout, "read_timeout": timeout, "retries": retries}
    return options


def _written_at(found: dict[str, Any]) -> float:
    """Each library has a name of its own for it. A store that tells none has blobs that are never old, and never
    fresh either.
    """
    for name in ("LastModified", "last_modified", "mtime", "updated", "modified", "created"):
        match found.get(name):
            case datetime() as moment:
                return moment.timestamp()
            case int() | float() as seconds:
                return float(seconds)
            case str() as text:
                return datetime.fromisoformat(text).timestamp()
    return float("inf")
