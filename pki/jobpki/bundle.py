"""A bundle: a folder with `ca.crt`, `tls.crt` and `tls.key`, the names of a Kubernetes TLS secret.

Reads and checks one from those three files alone: whoever uses a bundle does not hold the authority's folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID

from jobpki import keys
from jobpki.access import read_public, read_secret
from jobpki.errors import OutOfTimeError, PkiError
from jobpki.layout import CA_FILE, CERTIFICATE_FILE, KEY_FILE, Layout

# What x509 raises where a certificate or a list is not what it should be.
BROKEN = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class ServerBundle:
    """A server bundle that was found good: the bytes of its files, and whose trust domain it is."""

    key_pem: bytes
    chain_pem: bytes
    ca_pem: bytes
    trust_domain: str
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle of any kind that was found good."""

    key_pem: bytes
    chain_pem: bytes
    ca_pem: bytes
    leaf: x509.Certificate
    issuer: x509.Certificate  # the one of `ca_pem` that the leaf leads to


def check_server_bundle(pki: Path, *, now: datetime) -> ServerBundle:
    """Reads `<pki>/server` and makes sure that a server can work with it.

    Raises:
        PkiError: as `check_bundle`, and that it has no trust domain.
    """
    folder = Layout(pki).server
    bundle = check_bundle(folder, usage=ExtendedKeyUsageOID.SERVER_AUTH, now=now)
    trust_domain = spiffe_trust_domain(bundle.leaf) or spiffe_trust_domain(bundle.issuer)
    if trust_domain is None:
        raise PkiError("has no URI SAN spiffe://<trust domain>/server", path=folder / CERTIFICATE_FILE)
    return ServerBundle(
        key_pem=bundle.key_pem,
        chain_pem=bundle.chain_pem,
        ca_pem=bundle.ca_pem,
        trust_domain=trust_domain,
        not_after=bundle.leaf.not_valid_after_utc,
    )


def check_bundle(folder: Path, *, usage: x509.ObjectIdentifier, now: datetime) -> Bundle:
    """Reads a bundle and makes sure that it can be used for what it is.

    Args:
        folder: of the bundle.
        usage: serverAuth or clientAuth.
        now: an aware time.

    Raises:
        PkiError: names the file, and why: missing, empty, unreadable, a key that others may read, anything that others
            may change, not PEM, a key of another certificate, expired, not yet valid, of another authority, not for
            this usage.
    """
    ca_path, certificate_path, key_path = folder / CA_FILE, folder / CERTIFICATE_FILE, folder / KEY_FILE
    ca_pem, chain_pem, key_pem = read_public(ca_path), read_public(certificate_path), read_secret(key_path)
    roots = load_certificates(ca_pem, ca_path)
    leaf, *intermediates = load_certificates(chain_pem, certificate_path)
    key = keys.from_pem(key_pem, key_path)
    check_key_of(leaf, key, key_path=key_path, certificate_path=certificate_path)
    check_period(leaf, certificate_path, now)
    issuer = _issuer(leaf, intermediates, roots)
    if issuer is None:
        raise PkiError(f"was not issued by the authority in {ca_path}", path=certificate_path)
    check_period(issuer, ca_path, now)
    _check_usage(leaf, usage, certificate_path)
    return Bundle(key_pem=key_pem, chain_pem=chain_pem, ca_pem=ca_pem, leaf=leaf, issuer=issuer)


def check_key_of(
    certificate: x509.Certificate, key: PrivateKeyTypes, *, key_path: Path, certificate_path: Path
) -> None:
    """That a key is that of a certificate.

    Raises:
        PkiError: it is another's.
    """
    if not keys.same_public_key(key.public_key(), certificate.public_key()):
        raise PkiError(f"is not the key of {certificate_path}", path=key_path)


def load_certificates(pem: bytes, path: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file, at least one.

    Raises:
        PkiError: there is none, or one is broken.
    """
    try:
        certificates = [_whole(certificate) for certificate in x509.load_pem_x509_certificates(pem)]
    except BROKEN as error:
        raise PkiError("is not a certificate in PEM", path=path) from error
    if not certificates:
        raise PkiError("holds no certificate", path=path)
    return certificates


def _whole(certificate: x509.Certificate) -> x509.Certificate:
    """A certificate whose parts can be read: each is parsed when it is asked for."""
    _ = certificate.subject.public_bytes(), certificate.issuer.public_bytes(), certificate.serial_number
    _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc, certificate.extensions
    return certificate


def load_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a file: the leaf of a chain.

    Raises:
        PkiError: it is missing, unreadable, others may change it, or it is not a certificate.
    """
    return load_certificates(read_public(path), path)[0]


def spiffe_trust_domain(certificate: x509.Certificate) -> str | None:
    """The trust domain of its SPIFFE ID; None when it has none."""
    uri = spiffe_id(certificate)
    return None if uri is None else uri.removeprefix("spiffe://").partition("/")[0]


def spiffe_id(certificate: x509.Certificate) -> str | None:
    """Its SPIFFE ID: the one URI SAN of an X.509-SVID (section 2: exactly one); None when it is not an SVID."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0] if len(uris) == 1 and uris[0].startswith("spiffe://") else None


def check_period(certificate: x509.Certificate, path: Path, now: datetime) -> None:
    """That a certificate is valid at a time.

    Raises:
        PkiError: it is not yet, or not any more; with the date.
    """
    if now > certificate.not_valid_after_utc:
        raise OutOfTimeError(f"has expired on {_date(certificate.not_valid_after_utc)}", path=path)
    if now < certificate.not_valid_before_utc:
        begin = _date(certificate.not_valid_before_utc)
        problem = f"is not valid before {begin}, and the clock says {_date(now)}"
        raise PkiError(problem, path=path, mend="set this machine's clock right, or wait")


def _date(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _issuer(
    leaf: x509.Certificate, intermediates: list[x509.Certificate], roots: list[x509.Certificate]
) -> x509.Certificate | None:
    """The root that the leaf leads to, through intermediates that follow it in its file (RFC 8446 section 4.4.2)."""
    current = leaf
    for _ in range(len(intermediates) + 1):
        for root in roots:
            if is_issued(current, by=root):
                return root
        following = next((c for c in intermediates if c != current and is_issued(current, by=c)), None)
        if following is None:
            return None
        current = following
    return None


def is_issued(certificate: x509.Certificate, *, by: x509.Certificate) -> bool:
    """Whether an authority has signed a certificate itself."""
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_usage(leaf: x509.Certificate, usage: x509.ObjectIdentifier, path: Path) -> None:
    name, whom = ("serverAuth", "servers") if usage == ExtendedKeyUsageOID.SERVER_AUTH else ("clientAuth", "clients")
    try:
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as error:
        raise PkiError(f"has no extended key usage {name}", path=path) from error
    if usage not in usages:
        raise PkiError(f"is not for {whom}: its extended key usage lacks {name}", path=path)
