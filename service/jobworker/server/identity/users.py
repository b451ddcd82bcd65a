"""The users file as it is now, and which tokens its entries still stand for."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from jobpki.users import User, read_users
from jobworker.server.identity.current import Current

_STAMP_BYTES = 16


class Users:
    """The users of one file."""

    def __init__(self, path: Path, *, on_problem: Callable[[str], object]) -> None:
        """Reads the file; see `Current`.

        Raises:
            PkiError: the file cannot be read.
        """
        self.file = Current(path, read=partial(read_users, path), what="the users", on_problem=on_problem)

    def all(self) -> Mapping[str, User]:
        """Every entry."""
        return self.file.get()

    def get(self, name: str) -> User | None:
        """The user's entry; None when there is none. Costs a stat(2) while the file is unchanged."""
        return self.file.get().get(name)


def login_stamp(user: User) -> str:
    """What a token carries of the login that it was given for: another one after the password was changed, or the user
    disabled. It tells nothing of the password: the salt of its hash is in no token."""
    digest = hashlib.sha256(f"{user.epoch} {user.password_hash}".encode()).digest()
    return base64.urlsafe_b64encode(digest[:_STAMP_BYTES]).rstrip(b"=").decode()
