"""What the certificates say, by parsing them, and what independent verifiers make of them."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store

from jobpki.bundle import load_certificate
from jobpki.directory import initialise
from jobpki.errors import PkiError
from jobpki.profiles import BACKDATE, Lifetimes
from jobpki.users import Role
from tests.harness.pki import LOW_COST, make_pki

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
YEAR = timedelta(days=365)
T = TypeVar("T", bound=x509.ExtensionType)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pki(tmp_path_factory.mktemp("pki"), now=NOW, trust_domain="example.org").root


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def extension(certificate: x509.Certificate, kind: type[T]) -> tuple[T, bool]:
    found = certificate.extensions.get_extension_for_class(kind)
    return found.value, found.critical


LEAVES = ["server/tls.crt", "health/tls.crt", "clients/admin/tls.crt", "clients/alice/tls.crt"]


@pytest.mark.parametrize("name", ["ca/ca.crt", *LEAVES])
def test_every_certificate_has_a_p256_key_and_a_serial_within_20_octets(root: Path, name: str) -> None:
    certificate = load(root / name)
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert certificate.version is x509.Version.v3
    assert 2**64 < certificate.serial_number < 2**159  # RFC 5280 section 4.1.2.2; CA/B baseline 7.1: 64 random bits


def test_serials_are_all_different(root: Path) -> None:
    serials = {load(path).serial_number for path in root.rglob("*.crt") if path.name == "tls.crt"}
    assert len(serials) == 6


@pytest.mark.parametrize("name", ["ca/ca.crt", *LEAVES])
def test_certificates_are_valid_from_shortly_before_their_issue(root: Path, name: str) -> None:
    assert load(root / name).not_valid_before_utc == NOW - BACKDATE


def test_the_authority_lives_ten_years_and_leaves_one(root: Path) -> None:
    assert load(root / "ca/ca.crt").not_valid_after_utc == NOW + 10 * YEAR
    for name in LEAVES:
        assert load(root / name).not_valid_after_utc == NOW + YEAR


def test_a_leaf_does_not_outlive_its_authority(tmp_path: Path) -> None:
    lifetimes = Lifetimes(authority=timedelta(days=10))
    initialise(tmp_path, now=NOW, lifetimes=lifetimes, cost=LOW_COST)
    assert load(tmp_path / "server/tls.crt").not_valid_after_utc == NOW + timedelta(days=10)


def test_the_authority_may_sign_certificates_and_no_further_authorities(root: Path) -> None:
    ca = load(root / "ca/ca.crt")
    assert extension(ca, x509.BasicConstraints) == (x509.BasicConstraints(ca=True, path_length=0), True)
    usage, critical = extension(ca, x509.KeyUsage)
    assert critical
    assert usage.key_cert_sign
    assert usage.crl_sign
    assert not usage.digital_signature
    names, _ = extension(ca, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://example.org"]


@pytest.mark.parametrize("name", LEAVES)
def test_a_leaf_signs_handshakes_and_nothing_else(root: Path, name: str) -> None:
    leaf = load(root / name)
    assert extension(leaf, x509.BasicConstraints) == (x509.BasicConstraints(ca=False, path_length=None), True)
    usage, critical = extension(leaf, x509.KeyUsage)
    assert critical
    assert usage.digital_signature
    assert not any((usage.key_cert_sign, usage.crl_sign, usage.key_encipherment, usage.key_agreement))


@pytest.mark.parametrize("name", LEAVES)
def test_key_identifiers_link_a_leaf_to_its_authority(root: Path, name: str) -> None:
    ca, leaf = load(root / "ca/ca.crt"), load(root / name)
    own, _ = extension(ca, x509.SubjectKeyIdentifier)
    issuer, critical = extension(leaf, x509.AuthorityKeyIdentifier)
    assert issuer.key_identifier == own.digest
    assert not critical
    assert extension(leaf, x509.SubjectKeyIdentifier)[0].digest != own.digest
    leaf.verify_directly_issued_by(ca)


def test_the_server_certificate_is_for_servers_and_has_the_usual_names(root: Path) -> None:
    server = load(root / "server/tls.crt")
    assert list(extension(server, x509.ExtendedKeyUsage)[0]) == [ExtendedKeyUsageOID.SERVER_AUTH]
    names, _ = extension(server, x509.SubjectAlternativeName)
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("127.0.0.1"), ip_address("::1")]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://example.org/server"]


def test_the_server_certificate_has_the_names_that_were_given(tmp_path: Path) -> None:
    initialise(tmp_path, now=NOW, sans=["Jobs.Example.org", "10.0.0.7", "[fd00::7]"], cost=LOW_COST)
    names, _ = extension(load(tmp_path / "server/tls.crt"), x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.DNSName) == ["jobs.example.org"]
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("10.0.0.7"), ip_address("fd00::7")]


def test_a_client_certificate_is_for_clients_and_names_its_user(root: Path) -> None:
    alice = load(root / "clients/alice/tls.crt")
    assert list(extension(alice, x509.ExtendedKeyUsage)[0]) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    names, _ = extension(alice, x509.SubjectAlternativeName)
    assert list(names) == [x509.UniformResourceIdentifier("spiffe://example.org/user/alice")]
    assert [a.value for a in alice.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["alice"]


def test_a_strict_verifier_accepts_the_server_under_each_of_its_names(root: Path) -> None:
    store = Store([load(root / "ca/ca.crt")])
    leaf = load(root / "server/tls.crt")
    for subject in (x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))):
        verifier = PolicyBuilder().store(store).time(NOW).build_server_verifier(subject)
        assert len(verifier.verify(leaf, [])) == 2


def test_a_strict_verifier_accepts_a_client(root: Path) -> None:
    store = Store([load(root / "ca/ca.crt")])
    verified = PolicyBuilder().store(store).time(NOW).build_client_verifier().verify(load(root / LEAVES[-1]), [])
    assert verified.subjects == [x509.UniformResourceIdentifier("spiffe://example.org/user/alice")]


def test_two_authorities_of_one_trust_domain_have_different_subjects(tmp_path: Path) -> None:
    subjects = set()
    for name in ("one", "two"):
        initialise(tmp_path / name, now=NOW, users={"alice": Role.VIEWER}, cost=LOW_COST)
        subjects.add(load(tmp_path / name / "ca/ca.crt").subject)
    assert len(subjects) == 2


def test_a_certificate_of_a_version_that_there_is_not_is_none(root: Path, tmp_path: Path) -> None:
    version_3 = bytes.fromhex("a003020102")  # RFC 5280 section 4.1: [0] EXPLICIT INTEGER
    der = x509.load_pem_x509_certificate((root / "server/tls.crt").read_bytes()).public_bytes(Encoding.DER)
    assert version_3 in der
    file = tmp_path / "tls.crt"
    file.write_text(ssl.DER_cert_to_PEM_cert(der.replace(version_3, version_3[:-1] + b"\x0a", 1)))
    with pytest.raises(PkiError, match="is not a certificate in PEM"):
        load_certificate(file)
