"""What OpenSSL says of each certificate, strict about RFC 5280: for what it is, and for what it is not."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobpki.bundle import load_certificate
from jobpki.rotation import finish, prepare, switch
from tests.harness.pki import Pki, make_pki

NOW = datetime.now(UTC)
STEPS = {"new": (), "prepared": (prepare,), "switched": (prepare, switch), "rotated": (prepare, switch, finish)}
SERVERS, CLIENTS = ["server"], ["health", "clients/admin", "clients/alice"]


@pytest.fixture(scope="module", params=STEPS)
def pki(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pki:
    made = make_pki(tmp_path_factory.mktemp("pki") / "pki", now=NOW)
    for step in STEPS[request.param]:
        step(made.root, now=NOW)
    return made


def verifies(folder: Path, purpose: str, *more: str) -> bool:
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(folder / "ca.crt"), "-purpose", purpose, *more]
    done = subprocess.run([*command, str(folder / "tls.crt")], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode == 0


@pytest.mark.parametrize("name", [*SERVERS, *CLIENTS])
def test_a_certificate_is_good_for_its_purpose_alone(pki: Pki, name: str) -> None:
    good, bad = ("sslserver", "sslclient") if name in SERVERS else ("sslclient", "sslserver")
    assert verifies(pki.root / name, good)
    for purpose in (bad, "smimesign", "crlsign", "codesign"):
        assert not verifies(pki.root / name, purpose)


def test_the_server_is_called_by_its_names_alone(pki: Pki) -> None:
    assert verifies(pki.layout.server, "sslserver", "-verify_hostname", "localhost")
    assert verifies(pki.layout.server, "sslserver", "-verify_ip", "127.0.0.1")
    assert not verifies(pki.layout.server, "sslserver", "-verify_hostname", "example.org")


def test_a_leaf_signs_nothing(pki: Pki, tmp_path: Path) -> None:
    """A certificate that alice signed with her key is believed by nobody who trusts her authority."""
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-batch"]
    request += ["-subj", "/CN=mallory", "-CA", str(pki.client("alice") / "tls.crt")]
    request += ["-CAkey", str(pki.client("alice") / "tls.key"), "-keyout", str(tmp_path / "key")]
    subprocess.run([*request, "-out", str(tmp_path / "tls.crt")], check=True, capture_output=True, timeout=60)
    command = ["openssl", "verify", "-CAfile", str(pki.layout.server / "ca.crt")]
    command += ["-untrusted", str(pki.client("alice") / "tls.crt"), str(tmp_path / "tls.crt")]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode != 0


def test_serials_are_random_and_of_more_than_64_bits(pki: Pki) -> None:
    found = [load_certificate(path).serial_number for path in pki.root.rglob("*.crt") if path.name != "ca.crt"]
    leaves = set(found)
    assert len(leaves) == len(found)
    # Of 159 random bits, fewer than 100 would come once in 2**59.
    assert all(100 < serial.bit_length() < 160 for serial in leaves)
