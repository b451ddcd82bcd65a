"""What each kind of certificate is allowed to be: lifetimes, names and the costs of password hashes.

Constants and the checks of names; knows no files and no keys.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import timedelta

from jobpki.errors import PkiError

# Clocks of clients run behind; a certificate used in its first minutes must already be valid to them.
BACKDATE = timedelta(minutes=5)

DEFAULT_TRUST_DOMAIN = "jobworker"
ADMIN = "admin"  # the user that every PKI has

# They are folder names and SPIFFE path segments as well, hence lower case, no slash, and neither `.` nor `..`.
_USER_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
# SPIFFE-ID standard, section 2.1: at most 255 of these characters.
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
# RFC 1123 section 2.1, with a leading wildcard label as in RFC 6125 section 6.4.3.
_DNS_NAME = re.compile(
    r"(?=.{1,253}$)(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
)

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long each kind of certificate is valid, from its issue. None outlives the authority."""

    authority: timedelta = timedelta(days=3650)
    server: timedelta = timedelta(days=365)
    client: timedelta = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class PasswordCost:
    """Argon2id: passes, threads, and memory in KiB. The default is RFC 9106 section 4, second recommended option."""

    iterations: int = 3
    lanes: int = 4
    memory_kib: int = 64 * 1024


def check_user_name(name: str) -> str:
    """The name itself.

    Raises:
        PkiError: it is not 1-63 of a-z, 0-9, `.`, `_`, `-`, the first a letter or digit.
    """
    if not _USER_NAME.fullmatch(name):
        raise PkiError(f"{name!r} is not a user name: 1-63 of a-z 0-9 . _ -, the first a letter or digit")
    return name


def is_user_name(name: str) -> bool:
    """Whether a user can be called so."""
    return _USER_NAME.fullmatch(name) is not None


def check_trust_domain(name: str) -> str:
    """The name itself.

    Raises:
        PkiError: it is not 1-255 of a-z, 0-9, `.`, `_`, `-`.
    """
    if not _TRUST_DOMAIN.fullmatch(name):
        raise PkiError(f"{name!r} is not a SPIFFE trust domain: 1-255 of a-z 0-9 . _ -")
    return name


def subject_name(text: str) -> str | IpAddress:
    """What a client may call the server by: an IP address, or a DNS name in lower case.

    Raises:
        PkiError: it is neither.
    """
    try:
        return ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        pass
    name = text.lower().removesuffix(".")
    if not _DNS_NAME.fullmatch(name):
        raise PkiError(f"{text!r} is neither an IP address nor a DNS name (international ones: in their xn-- form)")
    return name
