"""`check_server_bundle`: each thing that can be wrong is told with its file."""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from jobpki import keys
from jobpki.bundle import check_server_bundle
from jobpki.errors import PkiError
from tests.harness.pki import Pki, make_pki

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return make_pki(tmp_path / "pki", now=NOW, trust_domain="example.org")


def refused(pki: Pki, name: str, why: str, now: datetime = NOW) -> None:
    path = pki.layout.server / name
    with pytest.raises(PkiError, match=f"^{re.escape(f'{path}: {why}')}") as caught:
        check_server_bundle(pki.root, now=now)
    assert "\n" not in str(caught.value)
    assert caught.value.path == path


def test_a_good_bundle_is_read_as_it_is(pki: Pki) -> None:
    bundle = check_server_bundle(pki.root, now=NOW)
    assert bundle.key_pem == (pki.layout.server / "tls.key").read_bytes()
    assert bundle.chain_pem == (pki.layout.server / "tls.crt").read_bytes()
    assert bundle.ca_pem == (pki.layout.server / "ca.crt").read_bytes()
    assert bundle.trust_domain == "example.org"
    assert bundle.not_after == NOW + timedelta(days=365)


def test_the_server_needs_nothing_but_its_own_folder(pki: Pki) -> None:
    for other in (pki.layout.ca, pki.layout.clients, pki.layout.auth):
        shutil.rmtree(other)
    check_server_bundle(pki.root, now=NOW)


@pytest.mark.parametrize("name", ["ca.crt", "tls.crt", "tls.key"])
def test_a_missing_file_is_told(pki: Pki, name: str) -> None:
    (pki.layout.server / name).unlink()
    refused(pki, name, "is missing")


@pytest.mark.parametrize("name", ["ca.crt", "tls.crt", "tls.key"])
def test_a_file_that_cannot_be_read_is_told(pki: Pki, name: str) -> None:
    path = pki.layout.server / name
    path.unlink()
    path.symlink_to(name)  # root may read any file; a loop of links stops root too
    refused(pki, name, "cannot be read (Too many levels of symbolic links)")


@pytest.mark.parametrize("name", ["ca.crt", "tls.crt"])
def test_a_certificate_that_is_not_pem_is_told(pki: Pki, name: str) -> None:
    (pki.layout.server / name).write_bytes(b"\x30\x82\x00")
    refused(pki, name, "is not a certificate in PEM")


def test_an_encrypted_key_is_told(pki: Pki) -> None:
    secret = serialization.BestAvailableEncryption(b"secret")
    pem = keys.generate().private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
    (pki.layout.server / "tls.key").write_bytes(pem)
    refused(pki, "tls.key", "is not an unencrypted private key in PEM")


def test_a_key_that_is_not_pem_is_told(pki: Pki) -> None:
    (pki.layout.server / "tls.key").write_text("no key")
    refused(pki, "tls.key", "is not an unencrypted private key in PEM")


def test_the_key_of_another_certificate_is_told(pki: Pki) -> None:
    (pki.layout.server / "tls.key").write_bytes(keys.to_pem(keys.generate()))
    refused(pki, "tls.key", f"is not the key of {pki.layout.server / 'tls.crt'}")


def test_an_expired_certificate_is_told_with_its_date(pki: Pki) -> None:
    refused(pki, "tls.crt", "has expired on 2027-03-01 12:00:00 UTC", now=NOW + timedelta(days=366))


def test_a_certificate_of_the_future_is_told_with_its_date(pki: Pki) -> None:
    refused(pki, "tls.crt", "is not valid before 2026-03-01 11:55:00 UTC", now=NOW - timedelta(days=1))


def test_a_certificate_of_another_authority_is_told(pki: Pki, tmp_path: Path) -> None:
    other = make_pki(tmp_path / "other", now=NOW, trust_domain="example.org")
    shutil.copy(other.layout.server / "ca.crt", pki.layout.server / "ca.crt")
    refused(pki, "tls.crt", f"was not issued by the authority in {pki.layout.server / 'ca.crt'}")


def test_a_client_certificate_is_no_server_certificate(pki: Pki) -> None:
    for name in ("tls.crt", "tls.key"):
        shutil.copy(pki.client("alice") / name, pki.layout.server / name)
    refused(pki, "tls.crt", "is not for servers")


def test_a_chain_through_an_intermediate_is_followed_to_the_root(pki: Pki) -> None:
    root_key = keys.p256_from_pem((pki.layout.ca / "ca.key").read_bytes(), pki.layout.ca)
    root = x509.load_pem_x509_certificate((pki.layout.ca / "ca.crt").read_bytes())
    middle_key, leaf_key = keys.generate(), keys.generate()
    middle = signed(root.subject, "middle", middle_key, root_key, x509.BasicConstraints(ca=True, path_length=0))
    usage = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH])
    leaf = signed(middle.subject, "leaf", leaf_key, middle_key, usage)
    chain = b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in (leaf, middle))
    (pki.layout.server / "tls.crt").write_bytes(chain)
    (pki.layout.server / "tls.key").write_bytes(keys.to_pem(leaf_key))
    assert check_server_bundle(pki.root, now=NOW).trust_domain == "example.org"
    (pki.layout.server / "tls.crt").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    refused(pki, "tls.crt", "was not issued by the authority in")


def signed(
    issuer: x509.Name,
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    by: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, subject)])
    return (
        x509.CertificateBuilder(issuer_name=issuer, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(hours=1))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(extension, critical=False)
        .sign(by, hashes.SHA256())
    )
