"""`mlproducer blobs`: the payloads that wait in the store of the claim check."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated

import typer

from mlproducer.blobs.port import MIN_AGE, Blob, BlobStore
from mlproducer.cli.choosing import age
from mlproducer.cli.output import ExitCode, JsonOption, fail, output, plural, size, span
from mlproducer.settings import Settings
from mlproducer.wiring import blobs_for

app = typer.Typer(help="The store of large payloads (ML_BLOB_URL).", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Typer would take a group's only command for the group itself."""


@app.command("clean")
def clean(
    *,
    older_than: Annotated[
        float, typer.Option("--older-than", parser=age, metavar="AGE", help="Only if written before: 12h, 7d.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove payloads that were written before. Nobody knows whether a task still waits for one, so choose an age that
    is longer than a task may wait: in the spool, in its queue, among the dead letters, and for its retries.
    """
    out = output(as_json=as_json)
    if older_than < MIN_AGE:
        raise fail(f"--older-than: at least {span(MIN_AGE)}; younger payloads may be published now", ExitCode.USAGE)
    blobs = blobs_for(Settings.load())
    if blobs is None:
        raise fail("ML_BLOB_URL is not set, so there is no store to clean", ExitCode.USAGE)
    before = time.time() - older_than
    count, total = 0, 0
    for blob in blobs.older_than(before) if dry_run else _removed(blobs, before):
        count, total = count + 1, total + blob.size
    out.data({"dry_run": dry_run, "older_than": older_than, "blobs": count, "bytes": total})
    verb = "would be removed" if dry_run else "removed"
    out.say(f"{plural(count, 'payload')} {verb}, {size(total)}, written more than {span(older_than)} ago")


def _removed(blobs: BlobStore, before: float) -> Iterator[Blob]:
    for blob in blobs.older_than(before):
        if blobs.delete(blob.key, older_than=before):
            yield blob
