"""The closed sets of label values. What is in none of them is counted as `unknown` or `other`, never as itself:
a label that a caller can choose would let him make as many series as he likes.
"""

from __future__ import annotations

from typing import Final

from mlproducer import errors
from mlproducer.errors import ErrorType
from mlproducer.outcome import Confirmed, Nacked, NotSent, NotSentCause, Outcome, Returned, Unsure, UnsureCause

UNKNOWN: Final = "unknown"
"""A task type that is not registered."""
OTHER: Final = "other"

STATUS_OF: Final[dict[type[Outcome], str]] = {
    Confirmed: "confirmed",
    Nacked: "nacked",
    Returned: "returned",
    Unsure: "unsure",
    NotSent: "not_sent",
}
"""`status` of an attempt. Unsure is a status of its own: neither sent nor failed."""
STATUSES: Final = tuple(STATUS_OF.values())

ERROR_TYPES: Final = tuple(e.value for e in ErrorType)
DEAD_REASONS: Final = ("nacked", "returned", "channel_refused", "too_large", "expired", OTHER)
SPOOL_CAUSES: Final = tuple(dict.fromkeys((*NotSentCause, *UnsureCause, "nacked", "returned", "eta", "expired", OTHER)))
REFUSED_REASONS: Final = (
    errors.InvalidTask.__name__,
    errors.TaskTooLarge.__name__,
    errors.SpoolFull.__name__,
    errors.SpoolUnavailable.__name__,
    errors.BlobStoreUnavailable.__name__,
    errors.TaskConflict.__name__,
    errors.NoTransaction.__name__,
    errors.NotAccepting.__name__,
    errors.NotInTime.__name__,
    OTHER,
)
