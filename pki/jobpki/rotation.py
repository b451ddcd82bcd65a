"""Another authority, and another token key, in the place of those that are: with a time in which both are believed.

The authority, in three steps, each of which can be repeated and is finished by the next run if it was cut off:

prepare   a new authority is made. Every bundle trusts both; the old one signs.
switch    the new one signs, and every bundle has a certificate of it. Every bundle still trusts both.
finish    the old one is forgotten.

What the step is, `ca/` alone says, which is replaced in one rename; then the bundles are made to agree with it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from jobpki import keys
from jobpki.access import read_secret
from jobpki.audit import record
from jobpki.authority import make_authority
from jobpki.bundle import load_certificate, spiffe_trust_domain
from jobpki.errors import PkiError
from jobpki.issuing import Issuing, contents, not_ours, pem, subjects
from jobpki.layout import CA_FILE, CERTIFICATE_FILE, CLOSED_MODE, PUBLIC_MODE, SECRET_MODE, Layout
from jobpki.opened import opened
from jobpki.profiles import Lifetimes
from jobpki.publish import publish_file, publish_folder
from jobpki.renewal import Renewal, reissue
from jobpki.revocation import identifier

_TAKEN_SECONDS = 4.0  # twice as long as it takes
_OWN, _NEXT, _PREVIOUS = ("ca.key", "ca.crt"), ("next.key", "next.crt"), ("previous.key", "previous.crt")


def prepare(root: Path, *, now: datetime, lifetime: timedelta | None = None) -> Renewal:
    """Makes a new authority beside the one that signs.

    Raises:
        PkiError: the one before is still believed; there is none here; and as `renewal.renew_due`.
    """
    with opened(root, made=False) as layout:
        demand_authority(layout)
        if layout.ca_previous.exists():
            problem = "a rotation is under way: the new authority signs already"
            raise PkiError(problem, path=layout.ca_previous, mend="run: jobpki rotate-ca finish")
        if not layout.ca_next.exists():
            trust_domain = spiffe_trust_domain(load_certificate(layout.ca_certificate))
            if trust_domain is None:
                raise PkiError("has no URI SAN spiffe://<trust domain>", path=layout.ca_certificate)
            made = make_authority(
                key=keys.generate(),
                trust_domain=trust_domain,
                now=now,
                lifetime=lifetime or Lifetimes().authority,
                serial=x509.random_serial_number(),
            )
            files = {_NEXT[0]: (keys.to_pem(made.key), SECRET_MODE), _NEXT[1]: (pem(made.certificate), PUBLIC_MODE)}
            publish_folder(layout.ca, {**contents(layout.ca), **files}, mode=CLOSED_MODE)
            record(layout, "authority.prepare")
        return _agree(layout, now=now)


def switch(root: Path, *, now: datetime) -> Renewal:
    """Has the new authority sign, and gives every bundle a certificate of it.

    Raises:
        PkiError: none was prepared; and as `renewal.renew_due`.
    """
    with opened(root, made=False) as layout:
        demand_authority(layout)
        if layout.ca_next.exists():
            files = contents(layout.ca)
            for own, following, previous in zip(_OWN, _NEXT, _PREVIOUS, strict=True):
                files[previous], files[own] = files[own], files.pop(following)
            publish_folder(layout.ca, files, mode=CLOSED_MODE)
            record(layout, "authority.switch")
        elif not layout.ca_previous.exists():
            raise PkiError("no new authority was prepared", mend="run: jobpki rotate-ca prepare")
        return _agree(layout, now=now)


def finish(root: Path, *, now: datetime) -> Renewal:
    """Forgets the authority that has signed before: nothing of it is valid any more.

    Raises:
        PkiError: the new one does not sign yet, or a bundle here is still of the old one; and as `renewal.renew_due`.
    """
    with opened(root, made=False) as layout:
        demand_authority(layout)
        if layout.ca_next.exists():
            raise PkiError("the old authority still signs", mend="run: jobpki rotate-ca switch")
        if layout.ca_previous.exists():
            before = _agree(layout, now=now)
            if before.notes:
                raise PkiError(f"the old authority is still needed: {before.notes[0]}")
            publish_folder(
                layout.ca, {k: v for k, v in contents(layout.ca).items() if k not in _PREVIOUS}, mode=CLOSED_MODE
            )
            record(layout, "authority.finish")
        return _agree(layout, now=now)


def taken_in_seconds(root: Path, *, now: float) -> float:
    """When every running server can have taken the last step, in seconds from now (`now`: since 1970); 0: it has. A
    client that has the bundle of a step is shut out by a server that has not taken the one before.

    Servers look once a second, and take a bundle that was the same at two looks (the service's documentation).
    """
    layout = Layout(root)
    changed = max((path.stat().st_mtime for path in (layout.ca, layout.server) if path.exists()), default=0.0)
    return _TAKEN_SECONDS - (now - changed) if 0 <= now - changed < _TAKEN_SECONDS else 0.0


def rotate_token_key(root: Path, *, at_once: bool = False) -> str:
    """Another key to sign tokens with. Those of the one before are good until `finish_token_key`.

    `at_once`: they are void from now on. Returns what was done.

    Raises:
        PkiError: there is no token key, or two are in use already.
    """
    with opened(root, made=False) as layout:
        present = _token_keys(layout)
        if len(present) > 1 and not at_once:
            raise PkiError(
                "two keys are in use already", path=layout.token_key, mend="run: jobpki rotate-token-key --finish"
            )
        kept = b"" if at_once else keys.to_pem(present[0])
        publish_file(layout.token_key, keys.to_pem(keys.generate()) + kept, mode=SECRET_MODE)
        record(layout, "token_key.rotate", at_once=at_once)
        return "a new key signs tokens; " + (
            "all tokens given out before are void" if at_once else "tokens of the one before are good until --finish"
        )


def finish_token_key(root: Path) -> str:
    """Forgets the key that has signed tokens before. Returns what was done."""
    with opened(root, made=False) as layout:
        present = _token_keys(layout)
        if len(present) == 1:
            return "one key is in use: nothing to do"
        publish_file(layout.token_key, keys.to_pem(present[0]), mode=SECRET_MODE)
        record(layout, "token_key.finish")
        return "the key before is forgotten; its tokens are void"


def demand_authority(layout: Layout) -> None:
    """That there is an authority here.

    Raises:
        PkiError: there is none.
    """
    if not layout.ca_certificate.exists():
        raise PkiError("is missing: the certificates are another authority's to issue", path=layout.ca_certificate)


def _token_keys(layout: Layout) -> list[ec.EllipticCurvePrivateKey]:
    return keys.p256s_from_pem(read_secret(layout.token_key), layout.token_key)


def _agree(layout: Layout, *, now: datetime) -> Renewal:
    """Makes every bundle agree with `ca/`."""
    issuing, renewal = Issuing(layout, now=now), Renewal()
    previous = load_certificate(layout.ca_previous).subject if layout.ca_previous.exists() else None
    revoked, trust = issuing.revoked(), issuing.trust_pem()
    for subject in subjects(layout):
        if not subject.is_ours:
            renewal.notes.append(not_ours(subject))
            continue
        path = subject.folder / CERTIFICATE_FILE
        certificate = load_certificate(path) if path.exists() else None
        if certificate is None:  # a user's, of another authority
            continue
        if certificate.issuer == previous and identifier(certificate) not in revoked:
            renewal.done.append((subject, reissue(issuing, subject, certificate)))
        elif (subject.folder / CA_FILE).read_bytes() != trust:
            publish_file(subject.folder / CA_FILE, trust, mode=PUBLIC_MODE)
            renewal.trusted.append(subject)
    return renewal
