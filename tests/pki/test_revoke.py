"""`revoke`: the list (RFC 5280), what is put on it, and what OpenSSL makes of it."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from jobpki import keys
from jobpki.bundle import load_certificate
from jobpki.directory import initialise, issue
from jobpki.errors import PkiError
from jobpki.examine import examine
from jobpki.issuing import authorities
from jobpki.renewal import renew_one
from jobpki.revocation import REASONS, load_crls, read_revoked
from jobpki.revoking import revoke
from tests.harness.forge import forge
from tests.harness.pki import LOW_COST, USERS, Pki, make_pki

NOW = datetime.now(UTC).replace(microsecond=0)
UNSPECIFIED = REASONS["unspecified"]


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return make_pki(tmp_path / "pki", now=NOW)


def serial(folder: Path) -> int:
    return load_certificate(folder / "tls.crt").serial_number


def revoked(pki: Pki) -> set[int]:
    return {serial for _, serial in read_revoked(pki.layout.crl, authorities(pki.layout))}


def openssl(pki: Pki, certificate: Path) -> subprocess.CompletedProcess[str]:
    command = ["openssl", "verify", "-x509_strict", "-crl_check", "-CAfile", str(pki.layout.ca_certificate)]
    command += ["-CRLfile", str(pki.layout.crl), "-purpose", "sslclient", str(certificate)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_openssl_refuses_what_is_revoked_and_nothing_else(pki: Pki) -> None:
    revoke(pki.root, "alice", reason=REASONS["key-compromise"], now=NOW)
    told = openssl(pki, pki.client("alice") / "tls.crt")
    assert told.returncode != 0
    assert "certificate revoked" in told.stderr
    assert openssl(pki, pki.client("bob") / "tls.crt").returncode == 0


def test_the_list_is_one_of_version_2_with_number_key_and_reasons(pki: Pki) -> None:
    revoke(pki.root, "alice", reason=REASONS["key-compromise"], now=NOW)
    revoke(pki.root, "bob", reason=UNSPECIFIED, now=NOW + timedelta(hours=1))
    (crl,) = load_crls(pki.layout.crl.read_bytes(), pki.layout.crl)
    ca = load_certificate(pki.layout.ca_certificate)
    assert crl.issuer == ca.subject
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 2
    key = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert key == ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert (crl.last_update_utc, crl.next_update_utc) == (NOW + timedelta(hours=1), ca.not_valid_after_utc)
    found = {entry.serial_number: entry for entry in crl}
    first, second = (found[serial(pki.client(user))] for user in ("alice", "bob"))
    assert first.revocation_date_utc == NOW
    assert first.extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.key_compromise
    assert len(second.extensions) == 0  # RFC 5280 section 5.3.1
    assert pki.layout.crl.stat().st_mode & 0o777 == 0o644


def test_a_users_certificates_of_before_are_revoked_with_the_newest(pki: Pki) -> None:
    first = serial(pki.client("alice"))
    renew_one(pki.root, "alice", now=NOW)
    assert set(revoke(pki.root, "alice", reason=UNSPECIFIED, now=NOW)) == {first, serial(pki.client("alice"))}
    before = pki.layout.crl.read_bytes()
    assert revoke(pki.root, "alice", reason=UNSPECIFIED, now=NOW) == []
    assert pki.layout.crl.read_bytes() == before


@pytest.mark.parametrize("form", ["{:x}", "{:X}", "0x{:x}", "{:040x}"])
def test_a_certificate_is_revoked_by_its_serial(pki: Pki, form: str) -> None:
    own = serial(pki.client("bob"))
    assert revoke(pki.root, form.format(own), reason=UNSPECIFIED, now=NOW) == [own]
    assert revoked(pki) == {own}


def test_a_serial_may_have_colons_and_be_of_a_certificate_that_nobody_noted(pki: Pki, tmp_path: Path) -> None:
    own = serial(forge(pki.root, tmp_path / "forged", "alice"))
    text = f"{own:040X}"
    colons = ":".join(text[i : i + 2] for i in range(0, 40, 2))
    assert revoke(pki.root, colons, reason=UNSPECIFIED, now=NOW) == [own]
    assert openssl(pki, tmp_path / "forged/tls.crt").returncode != 0


def test_issue_gives_a_revoked_user_another_key_and_keeps_the_password_and_init_does_not(pki: Pki) -> None:
    revoke(pki.root, "alice", reason=UNSPECIFIED, now=NOW)
    before = {path.name: path.read_bytes() for path in pki.client("alice").iterdir()}
    initialise(pki.root, now=NOW, users=USERS, cost=LOW_COST)
    assert {path.name: path.read_bytes() for path in pki.client("alice").iterdir()} == before
    with pytest.raises(PkiError, match=rf"is revoked.* - run: jobpki issue alice --dir {pki.root}"):
        renew_one(pki.root, "alice", now=NOW)
    issue(pki.root, "alice", role=None, now=NOW, cost=LOW_COST)
    after = {path.name: path.read_bytes() for path in pki.client("alice").iterdir()}
    assert after["password"] == before["password"]
    assert after["tls.key"] != before["tls.key"]
    assert openssl(pki, pki.client("alice") / "tls.crt").returncode == 0


def test_what_is_neither_a_user_nor_a_serial_is_told(pki: Pki) -> None:
    with pytest.raises(PkiError, match="no certificate of nobody is known here: give its serial"):
        revoke(pki.root, "nobody", reason=UNSPECIFIED, now=NOW)
    assert not pki.layout.crl.exists()


def test_without_the_authoritys_key_nothing_is_revoked_and_that_is_told(pki: Pki) -> None:
    pki.layout.ca_key.rename(pki.root.parent / "ca.key")
    with pytest.raises(PkiError, match=r"ca/ca\.key: is missing"):
        revoke(pki.root, "alice", reason=UNSPECIFIED, now=NOW)


def test_a_list_that_was_changed_or_cut_is_told(pki: Pki, tmp_path: Path) -> None:
    revoke(pki.root, "alice", reason=UNSPECIFIED, now=NOW)
    good = pki.layout.crl.read_bytes()
    other = make_pki(tmp_path / "other", now=NOW)
    for content, why in ((good[:-60], "is not a CRL in PEM"), (b"x" + good, "is not a CRL in PEM")):
        pki.layout.crl.write_bytes(content)
        (fault,) = examine(pki.layout)
        assert why in str(fault)
    # An entry taken out: the signature is of something else.
    (crl,) = load_crls(good, pki.layout.crl)
    ca = load_certificate(pki.layout.ca_certificate)
    forged = (
        x509.CertificateRevocationListBuilder().issuer_name(ca.subject)
        .last_update(crl.last_update_utc).next_update(ca.not_valid_after_utc)
    )  # fmt: skip
    key = keys.p256_from_pem(other.layout.ca_key.read_bytes(), other.layout.ca_key)
    pki.layout.crl.write_bytes(forged.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    (fault,) = examine(pki.layout)
    assert "is not signed by" in str(fault)
