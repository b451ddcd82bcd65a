"""Password hashes: Argon2id (RFC 9106) in PHC form, `$argon2id$v=19$m=65536,t=3,p=4$<salt>$<hash>`. Knows no users.

A hash is worked out whole in the thread that asks for it, one lane after the other. The lanes of a hash are a matter of
what is computed, not of how many threads do it: cryptography's Argon2id, which is OpenSSL's, starts a thread for each
lane and slice out of a pool of as many threads as there are processors. Two hashes at a time then wait for each
other's threads for ever, and where the machine gives no more threads, none can be worked out at all.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from typing import Any

from argon2.low_level import ARGON2_VERSION, Type, core, error_to_str, ffi, lib  # type: ignore[attr-defined]  # no __all__

from jobpki.errors import PkiError
from jobpki.profiles import PasswordCost

PASSWORD_BYTES_MAX = 1024
# NIST SP 800-63B-4 section 3.1.1.2: of one that is used beside another factor, here the certificate's key.
PASSWORD_CHARACTERS_MIN = 8
_SALT_BYTES = 16  # RFC 9106 section 3.1
_HASH_BYTES = 32
_PHC = re.compile(r"\$argon2id\$v=(\d{1,3})\$m=(\d{1,10}),t=(\d{1,10}),p=(\d{1,8})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)")
_PHC_CHARACTERS_MAX = 1024


def hash_password(password: str, cost: PasswordCost) -> str:
    """The hash of a password, with a salt of its own.

    Raises:
        MemoryError: there is not enough memory for it.
    """
    salt = os.urandom(_SALT_BYTES)
    digest = _argon2id(password, salt, cost=cost, version=ARGON2_VERSION, length=_HASH_BYTES)
    parameters = f"m={cost.memory_kib},t={cost.iterations},p={cost.lanes}"
    return f"$argon2id$v={ARGON2_VERSION}${parameters}${_base64(salt)}${_base64(digest)}"


def password_matches(password: str, password_hash: str) -> bool:
    """Whether this is the password; takes as long as hashing it, and lets other threads run.

    Raises:
        MemoryError: there is not enough memory to tell.
    """
    found = _PHC.fullmatch(password_hash) if len(password_hash) <= _PHC_CHARACTERS_MAX else None
    if found is None:
        return False
    version, memory_kib, iterations, lanes = (int(number) for number in found.groups()[:4])
    try:
        salt, digest = (_from_base64(text) for text in found.groups()[4:])
        cost = PasswordCost(iterations=iterations, lanes=lanes, memory_kib=memory_kib)
        own = _argon2id(password, salt, cost=cost, version=version, length=len(digest))
    except ValueError:  # parameters that Argon2 does not allow
        return False
    return hmac.compare_digest(own, digest)


def check_password(password: str) -> str:
    """The password itself, as one that is to be set.

    Raises:
        PkiError: it is shorter than PASSWORD_CHARACTERS_MIN or longer than PASSWORD_BYTES_MAX.
    """
    if len(password) < PASSWORD_CHARACTERS_MIN:
        raise PkiError(f"the password is shorter than {PASSWORD_CHARACTERS_MIN} characters")
    if len(password.encode()) > PASSWORD_BYTES_MAX:
        raise PkiError(f"the password is longer than {PASSWORD_BYTES_MAX} bytes")
    return password


def _argon2id(password: str, salt: bytes, *, cost: PasswordCost, version: int, length: int) -> bytes:
    """Raises:
    ValueError: Argon2 does not allow this.
    MemoryError: it cannot have its memory.
    """
    out = ffi.new("uint8_t[]", length)
    text = password.encode()
    # Both outlive the call: cffi frees what nothing refers to.
    password_memory, salt_memory = ffi.new("uint8_t[]", text), ffi.new("uint8_t[]", salt)
    fields: dict[str, Any] = {
        "out": out,
        "outlen": length,
        "version": version,
        "pwd": password_memory,
        "pwdlen": len(text),
        "salt": salt_memory,
        "saltlen": len(salt),
        "secret": ffi.NULL,
        "secretlen": 0,
        "ad": ffi.NULL,
        "adlen": 0,
        "t_cost": cost.iterations,
        "m_cost": cost.memory_kib,
        "lanes": cost.lanes,
        "threads": 1,
        "allocate_cbk": ffi.NULL,
        "free_cbk": ffi.NULL,
        "flags": lib.ARGON2_FLAG_CLEAR_PASSWORD,
    }
    try:
        context = ffi.new("argon2_context *", fields)
    except OverflowError as error:
        raise ValueError("a number that Argon2 does not allow") from error
    code = core(context, Type.ID.value)
    if code == lib.ARGON2_MEMORY_ALLOCATION_ERROR:
        raise MemoryError(f"no {cost.memory_kib} KiB of memory to check a password in")
    if code != lib.ARGON2_OK:
        raise ValueError(error_to_str(code))
    return bytes(ffi.buffer(out))


def _base64(value: bytes) -> str:
    """Without padding, as PHC strings have it."""
    return base64.b64encode(value).rstrip(b"=").decode()


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
