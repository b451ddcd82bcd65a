"""What the listener's TLS is made of: the server's bundle, after it was found good. Knows no gRPC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jobpki.bundle import check_server_bundle
from jobpki.examine import demand_closed_authority
from jobpki.layout import Layout


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """PEM for the listener, and the trust domain that its users belong to."""

    private_key_pem: bytes
    certificate_chain_pem: bytes
    ca_pem: bytes
    trust_domain: str
    not_after: datetime


def load_tls(pki: Path, *, now: datetime) -> TlsMaterial:
    """Reads and checks `<pki>/server`; and that the authority's key, if it is there, is not for others to read.

    Raises:
        PkiError: one line that says which file is not usable, and why.
    """
    demand_closed_authority(Layout(pki))
    bundle = check_server_bundle(pki, now=now)
    return TlsMaterial(
        private_key_pem=bundle.key_pem,
        certificate_chain_pem=bundle.chain_pem,
        ca_pem=bundle.ca_pem,
        trust_domain=bundle.trust_domain,
        not_after=bundle.not_after,
    )
