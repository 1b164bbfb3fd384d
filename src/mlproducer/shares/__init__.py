"""Which tasks a share needs, and publishing them as one group."""

from mlproducer.shares.media import MediaKind, check_media_url, media_kind
from mlproducer.shares.plan import Preferences, plan
from mlproducer.shares.processor import ShareIncomplete, ShareProcessor, ShareReceipt
from mlproducer.shares.share import Share, ShareOptions, parse_share

__all__ = [
    "MediaKind",
    "Preferences",
    "Share",
    "ShareIncomplete",
    "ShareOptions",
    "ShareProcessor",
    "ShareReceipt",
    "check_media_url",
    "media_kind",
    "parse_share",
    "plan",
]
