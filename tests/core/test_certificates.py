from __future__ import annotations

import pytest

from mlproducer.core.certificates import CertificateFault, certificate_fault


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (18, CertificateFault.AUTHORITY),  # self-signed
        (20, CertificateFault.AUTHORITY),  # unable to get local issuer certificate
        (62, CertificateFault.NAME),  # hostname mismatch
        (64, CertificateFault.NAME),  # IP address mismatch
        (9, CertificateFault.DATES),  # not yet valid
        (10, CertificateFault.DATES),  # has expired
        (26, CertificateFault.FORM),  # unsuitable certificate purpose
        (67, CertificateFault.FORM),  # CA certificate key too weak
        (79, CertificateFault.FORM),  # invalid CA certificate
        (85, CertificateFault.FORM),  # missing authority key identifier
        (92, CertificateFault.FORM),  # CA cert does not include key usage extension
        (23, CertificateFault.OTHER),  # revoked
        (12_345, CertificateFault.OTHER),
    ],
)
def test_a_certificate_is_refused_for_a_cause_that_somebody_can_mend(code: int, fault: CertificateFault) -> None:
    assert certificate_fault(code) is fault
