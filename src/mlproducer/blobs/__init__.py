"""Where payloads wait that are too large for the broker: a folder, S3, or what else fsspec reaches.

Workers import this package too, so it stays light: the standard library, and fsspec once a store needs it.
"""

from mlproducer.blobs.opening import open_blobs
from mlproducer.blobs.port import Blob, BlobStore

__all__ = ["Blob", "BlobStore", "open_blobs"]
