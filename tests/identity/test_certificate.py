"""Whom a client certificate names, and the thumbprint of its key."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from jobpki import keys
from jobworker.server.errors import AuthReason, UnauthenticatedError
from jobworker.server.identity.certificate import Certificates, key_thumbprint
from tests.harness.pki import Pki, make_pki

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
NOW_SECONDS = NOW.timestamp()


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"), now=NOW)


@pytest.fixture
def certificates() -> Certificates:
    return Certificates(trust_domain="jobworker")


def refused(certificates: Certificates, pem: bytes | None, message: str, now: float = NOW_SECONDS) -> None:
    with pytest.raises(UnauthenticatedError, match=message) as caught:
        certificates.read(pem, now=now)
    assert caught.value.reason is AuthReason.CERTIFICATE_INVALID


def pem_of(*uris: str, usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH) -> bytes:
    key = keys.generate()
    builder = (
        x509.CertificateBuilder(x509.Name([]), x509.Name([]), key.public_key(), x509.random_serial_number())
        .not_valid_before(NOW - timedelta(hours=1))
        .not_valid_after(NOW + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(u) for u in uris]), critical=True)
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_a_certificate_names_its_user_its_serial_and_its_times(pki: Pki, certificates: Certificates) -> None:
    pem = pki.certificate_pem("alice")
    certificate = certificates.read(pem, now=NOW_SECONDS)
    parsed = x509.load_pem_x509_certificate(pem)
    assert certificate.user == "alice"
    assert certificate.serial == parsed.serial_number
    assert certificate.not_after == (NOW + timedelta(days=365)).timestamp()
    assert certificate.thumbprint == key_thumbprint(parsed.public_key())
    assert certificates.read(pem, now=NOW_SECONDS) is certificate


def test_its_time_is_checked_at_each_call(pki: Pki, certificates: Certificates) -> None:
    pem = pki.certificate_pem("alice")
    end = certificates.read(pem, now=NOW_SECONDS).not_after
    certificates.read(pem, now=end)
    refused(certificates, pem, "has expired", now=end + 1)
    refused(certificates, pem, "not valid yet", now=NOW_SECONDS - 3600)


@pytest.mark.parametrize("pem", [None, b""])
def test_no_certificate_is_no_user(certificates: Certificates, pem: bytes | None) -> None:
    refused(certificates, pem, "a client certificate is needed")


def test_what_is_no_certificate_is_refused(certificates: Certificates) -> None:
    refused(certificates, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be read")


def test_a_certificate_of_another_trust_domain_names_nobody(pki: Pki) -> None:
    refused(Certificates(trust_domain="job"), pki.certificate_pem("alice"), "names no user of this service")
    refused(Certificates(trust_domain="jobworker.example"), pki.certificate_pem("alice"), "names no user")


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["spiffe://jobworker/server"],
        ["spiffe://jobworker/user/"],
        ["spiffe://jobworker/user/.."],
        ["spiffe://jobworker/user/alice/x"],
        ["spiffe://jobworker/user/Alice"],
        ["https://jobworker/user/alice"],
        ["spiffe://jobworker/user/alice", "spiffe://jobworker/user/admin"],  # X.509-SVID section 2: exactly one
    ],
)
def test_a_certificate_without_the_one_name_of_a_user_names_nobody(certificates: Certificates, uris: list[str]) -> None:
    refused(certificates, pem_of(*uris), "names no user of this service")


@pytest.mark.parametrize("usage", [None, ExtendedKeyUsageOID.SERVER_AUTH])
def test_a_certificate_that_is_not_for_clients_names_nobody(
    certificates: Certificates, usage: x509.ObjectIdentifier | None
) -> None:
    refused(certificates, pem_of("spiffe://jobworker/user/alice", usage=usage), "is not for clients")


def test_the_thumbprint_is_that_of_rfc_7638() -> None:
    modulus = int.from_bytes(_rfc_7638_modulus(), "big")
    key = rsa.RSAPublicNumbers(65537, modulus).public_key()
    assert key_thumbprint(key) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_the_thumbprint_of_ed25519_is_that_of_rfc_8037() -> None:
    raw = _decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
    key = ed25519.Ed25519PublicKey.from_public_bytes(raw)
    assert key_thumbprint(key) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"  # RFC 8037 appendix A.3


@pytest.mark.parametrize("make", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def test_coordinates_of_curves_keep_their_leading_zeros(make: Callable[[], ec.EllipticCurve]) -> None:
    # About one key in 128 has a coordinate with a zero in front; RFC 7518 section 6.2.1.2 keeps it.
    for value in range(2, 300):
        key = ec.derive_private_key(value, make()).public_key()
        jwk = jwt.algorithms.ECAlgorithm.to_jwk(key, as_dict=True)
        assert key_thumbprint(key) == _thumbprint_of({name: jwk[name] for name in ("crv", "kty", "x", "y")})


def test_a_key_of_another_kind_has_none() -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        key_thumbprint(ec.generate_private_key(ec.SECP256K1()).public_key())


def _rfc_7638_modulus() -> bytes:
    """Section 3.1 of RFC 7638."""
    return _decode(
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3o"
        "knjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZH"
        "zu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEg"
        "U8awapJzKnqDKgw"
    )


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _thumbprint_of(jwk: dict[str, str]) -> str:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(json.dumps(jwk, sort_keys=True, separators=(",", ":")).encode())
    return base64.urlsafe_b64encode(digest.finalize()).rstrip(b"=").decode()
