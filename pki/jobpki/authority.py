"""Builds certificates (RFC 5280) from keys, names and times that are handed in.

Pure but for the signature: no files, no clock, and the serial number comes from the caller.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from jobpki.profiles import BACKDATE, IpAddress


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA that can sign: its certificate and the key to it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_authority(
    *, key: ec.EllipticCurvePrivateKey, trust_domain: str, now: datetime, lifetime: timedelta, serial: int
) -> Authority:
    """A self-signed root.

    Its URI SAN is the trust domain's own SPIFFE ID (X.509-SVID section 3.1: no path), so that whoever holds `ca.crt`
    knows the trust domain. Path length 0: it signs leaves and no further authorities (RFC 5280 section 4.2.1.9).
    """
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # A part of the key identifier in the name: after a rotation both roots are told apart by their subject.
    subject = _name(f"{trust_domain[:40]} CA {identifier.digest[:4].hex()}")
    builder = (
        _builder(subject=subject, issuer=subject, key=key.public_key(), serial=serial)
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]), critical=False
        )
    )
    return Authority(certificate=builder.sign(key, hashes.SHA256()), key=key)


def issue_server(
    authority: Authority,
    *,
    key: ec.EllipticCurvePublicKey,
    names: Iterable[str | IpAddress],
    trust_domain: str,
    now: datetime,
    lifetime: timedelta,
    serial: int,
) -> x509.Certificate:
    """A server's certificate: serverAuth, the names clients call it by, and `spiffe://<trust domain>/server`."""
    alternatives: list[x509.GeneralName] = [
        x509.DNSName(name) if isinstance(name, str) else x509.IPAddress(name) for name in names
    ]
    alternatives.append(x509.UniformResourceIdentifier(f"spiffe://{trust_domain}/server"))
    return _leaf(
        authority,
        key=key,
        common_name="server",
        alternatives=alternatives,
        usage=ExtendedKeyUsageOID.SERVER_AUTH,
        now=now,
        lifetime=lifetime,
        serial=serial,
    )


def issue_client(
    authority: Authority,
    *,
    key: ec.EllipticCurvePublicKey,
    user: str,
    trust_domain: str,
    now: datetime,
    lifetime: timedelta,
    serial: int,
) -> x509.Certificate:
    """A user's certificate: clientAuth, `spiffe://<trust domain>/user/<name>`, and the name again as CN."""
    return _leaf(
        authority,
        key=key,
        common_name=user,
        alternatives=[x509.UniformResourceIdentifier(f"spiffe://{trust_domain}/user/{user}")],
        usage=ExtendedKeyUsageOID.CLIENT_AUTH,
        now=now,
        lifetime=lifetime,
        serial=serial,
    )


def issue_health(
    authority: Authority,
    *,
    key: ec.EllipticCurvePublicKey,
    trust_domain: str,
    now: datetime,
    lifetime: timedelta,
    serial: int,
) -> x509.Certificate:
    """The health check's certificate, which is not a user: clientAuth, `spiffe://<trust domain>/health`."""
    return _leaf(
        authority,
        key=key,
        common_name="health",
        alternatives=[x509.UniformResourceIdentifier(f"spiffe://{trust_domain}/health")],
        usage=ExtendedKeyUsageOID.CLIENT_AUTH,
        now=now,
        lifetime=lifetime,
        serial=serial,
    )


def _leaf(
    authority: Authority,
    *,
    key: ec.EllipticCurvePublicKey,
    common_name: str,
    alternatives: list[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    now: datetime,
    lifetime: timedelta,
    serial: int,
) -> x509.Certificate:
    issuer = authority.certificate
    issuer_identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _builder(subject=_name(common_name), issuer=issuer.subject, key=key, serial=serial)
        .not_valid_before(now - BACKDATE)
        # A leaf that outlives its issuer fails before its own date says so.
        .not_valid_after(min(now + lifetime, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        # An EC key signs in (EC)DHE suites and never encrypts (RFC 8446 section 4.4.2.2).
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_identifier), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def _builder(
    *, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, serial: int
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key).serial_number(serial)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])  # at most 64 characters (RFC 5280 A.1)


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
