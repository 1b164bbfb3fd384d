"""Why a peer's certificate was refused: what a person has to change, by OpenSSL's number for it.

Four causes need four different hands, and the wrong word sends people to the wrong one: since Python 3.13 a certificate
that worked for years is refused for its form (`VERIFY_X509_STRICT`), and no other authority helps then.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class CertificateFault(StrEnum):
    AUTHORITY = "authority"
    """Nobody who is trusted has signed it."""
    NAME = "name"
    """It is for another host."""
    DATES = "dates"
    """It is over, or not valid yet."""
    FORM = "form"
    """It, or its authority's, is not made by the rules: it must be issued anew."""
    OTHER = "other"


# `X509_V_ERR_…` of OpenSSL 1.1 to 3 (openssl/x509_vfy.h); the numbers do not change.
_AUTHORITY: Final = frozenset({2, 7, 18, 19, 20, 21, 27, 28, 29, 30, 31})
_NAME: Final = frozenset({62, 63, 64})
_DATES: Final = frozenset({9, 10})
# Purposes, constraints and weak keys; from 76 on all that RFC 5280 asks for and only the strict check looks at.
_FORM: Final = frozenset({25, 26, 32, 34, 37, 39, 41, *range(66, 69), *range(76, 95)})


def certificate_fault(verify_code: int) -> CertificateFault:
    """`verify_code` as in `ssl.SSLCertVerificationError`."""
    for fault, codes in (
        (CertificateFault.AUTHORITY, _AUTHORITY),
        (CertificateFault.NAME, _NAME),
        (CertificateFault.DATES, _DATES),
        (CertificateFault.FORM, _FORM),
    ):
        if verify_code in codes:
            return fault
    return CertificateFault.OTHER
