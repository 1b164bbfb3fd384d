"""What every store of payloads does: a folder, and S3 over real HTTP; then what each alone must do."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import boto3  # type: ignore[import-untyped]  # ships no types
import pytest

from mlproducer.blobs import BlobStore, open_blobs
from mlproducer.blobs.folder import FolderBlobs
from mlproducer.blobs.port import FRESH
from mlproducer.envelope.reference import key_of
from mlproducer.errors import BlobStoreUnavailable, NotFound, SettingsError
from private_s3 import BUCKET, private_s3

DATA = b'{"content":"' + b"0123456789" * 1000 + b'"}'
KEY = key_of(sha256(DATA).hexdigest())
OTHER = key_of(sha256(b"{}").hexdigest())
LATER = 2_000_000_000_000.0


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as environment, private_s3(environment) as endpoint:
        yield endpoint


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "folder":
        return open_blobs(f"file://{tmp_path / 'blobs'}")
    request.getfixturevalue("s3")
    return open_blobs(f"s3://{BUCKET}/{tmp_path.name}")


def keys(store: BlobStore, before: float = LATER) -> list[str]:
    return [blob.key for blob in store.older_than(before)]


def test_what_was_put_is_got(store: BlobStore) -> None:
    store.put(KEY, memoryview(DATA))
    assert store.get(KEY, len(DATA) + 1) == DATA
    (blob,) = store.older_than(LATER)
    assert (blob.key, blob.size) == (KEY, len(DATA))
    assert abs(blob.written_at - time.time()) < 60


def test_no_more_than_the_limit_is_read(store: BlobStore) -> None:
    store.put(KEY, DATA)
    assert store.get(KEY, 10) == DATA[:10]


def test_a_blob_that_is_not_there_is_not_found(store: BlobStore) -> None:
    store.put(KEY, DATA)
    with pytest.raises(NotFound, match=OTHER):
        store.get(OTHER, 10)


def test_the_same_payload_published_again_is_written_once(store: BlobStore) -> None:
    store.put(KEY, DATA)
    (first,) = store.older_than(LATER)
    time.sleep(1.1)  # S3 tells times in seconds
    store.put(KEY, DATA)
    assert list(store.older_than(LATER)) == [first]


def test_a_removed_blob_is_gone_and_removing_it_again_does_nothing(store: BlobStore) -> None:
    store.put(KEY, DATA)
    assert store.delete(KEY, older_than=LATER)
    assert not store.delete(KEY, older_than=LATER)
    assert keys(store) == []


def test_a_young_blob_is_neither_listed_nor_removed(store: BlobStore) -> None:
    store.put(KEY, DATA)
    hour_ago = time.time() - 3600
    assert keys(store, hour_ago) == []
    assert not store.delete(KEY, older_than=hour_ago)
    assert keys(store) == [KEY]


def test_an_empty_store_has_nothing_to_clean(store: BlobStore) -> None:
    assert keys(store) == []


@pytest.mark.parametrize("key", ["../escape", "/etc/passwd", "ab/cd/short"])
def test_a_key_that_is_none_reaches_no_store(store: BlobStore, key: str) -> None:
    for call in (lambda: store.put(key, b"x"), lambda: store.get(key, 1), lambda: store.delete(key, older_than=LATER)):
        with pytest.raises(ValueError, match="no key"):
            call()


def test_many_writers_of_one_payload_leave_one_whole_blob(store: BlobStore) -> None:
    failed: list[BaseException] = []

    def put() -> None:
        try:
            store.put(KEY, DATA)
        except BaseException as error:  # noqa: BLE001  # shown by the assertion below
            failed.append(error)

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert keys(store) == [KEY]
    assert store.get(KEY, len(DATA) + 1) == DATA


# A folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "blobs"


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_folders_blobs_are_for_this_user_only(folder: Path) -> None:
    FolderBlobs(folder).put(KEY, DATA)
    for path in (folder, *folder.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_a_payload_published_again_after_an_hour_is_young_again(folder: Path) -> None:
    store = FolderBlobs(folder)
    store.put(KEY, DATA)
    age(folder / KEY, FRESH + 1)
    store.put(KEY, DATA)
    assert keys(store, time.time() - FRESH) == []
    assert store.get(KEY, len(DATA) + 1) == DATA


def test_a_blob_published_again_between_the_look_and_the_removal_stays(folder: Path) -> None:
    store = FolderBlobs(folder)
    store.put(KEY, DATA)
    age(folder / KEY, 100_000)
    before = time.time() - 50_000
    (found,) = store.older_than(before)
    store.put(KEY, DATA)  # another producer, now
    assert not store.delete(found.key, older_than=before)
    assert store.get(KEY, len(DATA) + 1) == DATA


def test_a_blob_that_was_cut_short_by_others_is_written_again(folder: Path) -> None:
    store = FolderBlobs(folder)
    store.put(KEY, DATA)
    (folder / KEY).write_bytes(DATA[:10])
    store.put(KEY, DATA)
    assert store.get(KEY, len(DATA) + 1) == DATA


def test_a_full_disk_is_told_and_leaves_no_half_of_a_blob(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, os.strerror(28))

    store = FolderBlobs(folder)
    store.put(OTHER, b"{}")
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(BlobStoreUnavailable, match=r"disk is full.*ML_BLOB_URL") as refused:
            store.put(KEY, DATA)
    assert refused.value.retry_after > 0
    assert [path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock"] == [OTHER[6:]]
    store.put(KEY, DATA)
    assert store.get(KEY, len(DATA) + 1) == DATA


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BlobStoreUnavailable, match="a part of the path is a file"):
        FolderBlobs(tmp_path / "file" / "blobs").put(KEY, DATA)


def test_a_folder_that_is_not_writable_is_told() -> None:
    with pytest.raises(BlobStoreUnavailable, match="ML_BLOB_URL"):
        FolderBlobs(Path("/proc/mlproducer-blobs")).put(KEY, DATA)  # nobody writes there, not even root


def test_a_folder_that_is_not_mounted_is_no_missing_blob(tmp_path: Path) -> None:
    with pytest.raises(BlobStoreUnavailable, match="is it mounted"):
        FolderBlobs(tmp_path / "nowhere").get(KEY, 10)


def test_what_a_crash_left_unfinished_is_cleaned_and_foreign_files_are_not(folder: Path) -> None:
    store = FolderBlobs(folder)
    store.put(KEY, DATA)
    half, foreign = folder / "incoming" / "0123abcd", folder / KEY[:5] / "readme.txt"
    for path in (half, foreign):
        path.write_bytes(b"x")
        age(path, 100_000)
    assert keys(store, time.time() - 50_000) == ["incoming/0123abcd"]
    assert store.delete("incoming/0123abcd", older_than=LATER)
    assert foreign.exists()
    assert not half.exists()


# S3


def test_s3_holds_the_blob_under_the_prefix_and_its_key(s3: str) -> None:
    open_blobs(f"s3://{BUCKET}/some/prefix").put(KEY, DATA)
    assert boto3.client("s3").get_object(Bucket=BUCKET, Key=f"some/prefix/{KEY}")["Body"].read() == DATA
    assert s3.startswith("http://127.0.0.1:")


def test_foreign_objects_in_the_bucket_are_not_ours_to_list(s3: str) -> None:
    del s3
    boto3.client("s3").put_object(Bucket=BUCKET, Key="foreign/ab/cd/readme.txt", Body=b"x")
    assert keys(open_blobs(f"s3://{BUCKET}/foreign")) == []


def test_a_bucket_that_is_missing_is_no_missing_blob(s3: str) -> None:
    del s3
    store = open_blobs("s3://no-such-bucket/prefix")
    with pytest.raises(BlobStoreUnavailable, match="ML_BLOB_URL"):
        store.put(KEY, DATA)
    with pytest.raises(BlobStoreUnavailable, match="ML_BLOB_URL"):
        store.get(KEY, 10)


def test_an_s3_that_does_not_answer_is_told_without_its_secret(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    del s3
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(BlobStoreUnavailable, match="does it answer") as refused:
        open_blobs(f"s3://{BUCKET}", timeout=1.0).put(KEY, DATA)
    assert "testing-secret" not in str(refused.value)


# URLs


@pytest.mark.parametrize(
    "url",
    ["relative/path", "file://host/path", "memory://", "http://127.0.0.1/x", "s3://", "://x", "nosuch://bucket/x", ""],
)
def test_a_url_that_names_no_store_is_refused_by_its_setting(url: str) -> None:
    with pytest.raises(SettingsError, match="ML_BLOB_URL"):
        open_blobs(url)
