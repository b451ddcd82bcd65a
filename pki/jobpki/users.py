"""The users file: who may log in, with which role and which password hash. Knows no certificates.

    {"version": 1, "users": {
        "admin": {"role": "admin", "password": "$argon2id$...", "created_at": "2026-01-01T00:00:00Z"},
        "alice": {..., "disabled": true, "epoch": 1, "tokens_from": "2026-01-02T00:00:00Z"}}}

`disabled`, `epoch` and `tokens_from` are left out where they are false, 0 and None.

The service reads it at each call (through a cache), so it is replaced whole and never changed in place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from jobpki.access import read_secret
from jobpki.errors import PkiError
from jobpki.profiles import is_user_name
from jobpki.publish import publish_file

_VERSION = 1
ROLE_PATTERN = r"^[a-z][a-z0-9_-]{0,31}$"


class Role(str):
    """A role's name. Three are always there; what others may do is in the service's configuration."""

    __slots__ = ()
    VIEWER: ClassVar[Role]  # reads its own
    OPERATOR: ClassVar[Role]  # also submits and cancels its own
    ADMIN: ClassVar[Role]  # everything, and everyone's

    @classmethod
    def parse(cls, text: str) -> Role:
        """The role of this name.

        Raises:
            PkiError: none can be called so.
        """
        if re.fullmatch(ROLE_PATTERN, text) is None:
            raise PkiError(
                f"{text!r} is not a role: viewer, operator, admin, or the name of one in the service's configuration, "
                "of lower-case letters, digits, - and _"
            )
        return next((role for role in _OWN if role == text), cls(text))

    @property
    def is_configured(self) -> bool:
        """Whether it is none of the three."""
        return self not in _OWN


_OWN = Role.VIEWER, Role.OPERATOR, Role.ADMIN = Role("viewer"), Role("operator"), Role("admin")


@dataclass(frozen=True, slots=True)
class User:
    """One entry: the hash is in PHC form (`$argon2id$v=19$m=...`).

    `epoch` is another number each time that all tokens given out before are to end, beside a change of the password;
    those given out before `tokens_from` have ended, too.
    """

    role: Role
    password_hash: str
    created_at: datetime
    disabled: bool = False
    epoch: int = 0
    tokens_from: datetime | None = None


def read_users(path: Path) -> dict[str, User]:
    """Every user by name.

    Raises:
        PkiError: the file is missing, unreadable, for others to read or change, or not a users file; says where it is
            wrong.
    """
    return parse_users(read_secret(path), path)


def parse_users(content: bytes, path: Path) -> dict[str, User]:
    """As read_users, of bytes that were read from `path`."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise PkiError(f"is not JSON ({error})", path=path) from error
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        raise PkiError(f"is not a users file of version {_VERSION}", path=path)
    entries = document.get("users")
    if not isinstance(entries, dict):
        raise PkiError("has no object `users`", path=path)
    return {name: _user(name, entry, path) for name, entry in entries.items()}


def write_users(path: Path, users: Mapping[str, User]) -> None:
    """Replaces the file in one step, mode 0600."""
    entries = {
        name: {
            "role": str(user.role),
            "password": user.password_hash,
            "created_at": _text(user.created_at),
            **({"disabled": True} if user.disabled else {}),
            **({"epoch": user.epoch} if user.epoch else {}),
            **({} if user.tokens_from is None else {"tokens_from": _text(user.tokens_from)}),
        }
        for name, user in sorted(users.items())
    }
    document = {"version": _VERSION, "users": entries}
    publish_file(path, (json.dumps(document, indent=2) + "\n").encode(), mode=0o600)


def _user(name: str, entry: object, path: Path) -> User:
    if not is_user_name(name):
        raise PkiError(f"{name!r} is not a user name", path=path)
    if not isinstance(entry, dict):
        raise PkiError(f"users.{name} is not an object", path=path)
    password_hash = entry.get("password")
    if not isinstance(password_hash, str) or not password_hash.startswith("$argon2id$"):
        raise PkiError(f"users.{name}.password is not an Argon2id hash in PHC form", path=path)
    created = _time(entry.get("created_at"), f"users.{name}.created_at", path)
    since = entry.get("tokens_from")
    tokens_from = None if since is None else _time(since, f"users.{name}.tokens_from", path)
    try:
        role = Role.parse(str(entry.get("role")))
    except PkiError as error:
        raise PkiError(f"users.{name}.role: {error}", path=path) from error
    disabled, epoch = entry.get("disabled", False), entry.get("epoch", 0)
    if not isinstance(disabled, bool):
        raise PkiError(f"users.{name}.disabled is neither true nor false", path=path)
    if type(epoch) is not int or epoch < 0:
        raise PkiError(f"users.{name}.epoch is not a count", path=path)
    return User(
        role=role,
        password_hash=password_hash,
        created_at=created,
        disabled=disabled,
        epoch=epoch,
        tokens_from=tokens_from,
    )


def _text(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _time(text: object, where: str, path: Path) -> datetime:
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError as error:
        raise PkiError(f"{where} is not an RFC 3339 time", path=path) from error
    if time.tzinfo is None:
        raise PkiError(f"{where} has no time zone", path=path)
    return time
