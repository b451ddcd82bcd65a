"""The caller, as every part behind the front door sees it. Knows no certificates, tokens or files."""

from __future__ import annotations

from dataclasses import dataclass

from jobworker.server.rights import Right


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, and until when that holds; a stream that lives longer has to ask again.

    `role` is None on a call that needs none (a login, a health check) by someone who is not in the users file;
    `token_expires_at` is None on a call that needs no token. Times are seconds since 1970.
    """

    user: str
    role: str | None
    rights: frozenset[Right]  # of the role, as it is now
    sees_all: bool  # this call may be about everyone's batches
    token_expires_at: float | None
    certificate_expires_at: float
    serial: int  # of the certificate
    token_id: str | None = None  # its `jti`

    @property
    def expires_at(self) -> float:
        """When the first of token and certificate stops working."""
        if self.token_expires_at is None:
            return self.certificate_expires_at
        return min(self.token_expires_at, self.certificate_expires_at)
