"""Client bundles that `jobpki` would not make, signed with the authority's own key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from jobpki import authority, keys
from jobpki.layout import CA_FILE, CERTIFICATE_FILE, KEY_FILE, Layout


def forge(
    pki: Path,
    folder: Path,
    user: str,
    *,
    now: datetime | None = None,
    keep_key: bool = False,
    lifetime: timedelta = timedelta(days=1),
) -> Path:
    """A bundle for a user, in a new folder: valid from `now` on, with a new key or the user's own."""
    layout = Layout(pki)
    signer = authority.Authority(
        certificate=x509.load_pem_x509_certificate(layout.ca_certificate.read_bytes()),
        key=keys.p256_from_pem(layout.ca_key.read_bytes(), layout.ca_key),
    )
    own = layout.client(user) / KEY_FILE
    key = keys.p256_from_pem(own.read_bytes(), own) if keep_key else keys.generate()
    certificate = authority.issue_client(
        signer,
        key=key.public_key(),
        user=user,
        trust_domain="jobworker",
        now=now or datetime.now(UTC),
        lifetime=lifetime,
        serial=x509.random_serial_number(),
    )
    folder.mkdir()
    (folder / CA_FILE).write_bytes(layout.ca_certificate.read_bytes())
    (folder / CERTIFICATE_FILE).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / KEY_FILE).write_bytes(keys.to_pem(key))
    return folder
