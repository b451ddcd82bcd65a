"""What zlint, a linter of certificates and CRLs, says of ours by RFC 5280. It takes Go."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobpki.revocation import REASONS
from jobpki.revoking import revoke
from tests.harness.gobuild import installed
from tests.harness.pki import make_pki

SOURCE = "github.com/zmap/zlint/v3/cmd/zlint@v3.7.3"


@pytest.mark.go
def test_nothing_is_said_against_a_certificate_or_list(tmp_path: Path) -> None:
    """The trust domain has a dot: zlint takes the one of a SPIFFE ID for a host's name (RFC 5280 section 4.2.1.6)."""
    zlint = installed("zlint", SOURCE)
    pki = make_pki(tmp_path / "pki", trust_domain="example.org")
    revoke(pki.root, "bob", reason=REASONS["key-compromise"], now=datetime.now(UTC))
    for name in ("ca/ca.crt", "server/tls.crt", "health/tls.crt", "clients/alice/tls.crt", "auth/crl.pem"):
        command = [zlint, "-includeSources", "RFC5280,Community", pki.root / name]
        told = subprocess.run(command, check=True, capture_output=True, timeout=60)
        results = {lint: found["result"] for lint, found in json.loads(told.stdout).items()}
        assert results
        assert {lint: result for lint, result in results.items() if result not in ("pass", "NA", "NE", "info")} == {}, (
            name
        )
