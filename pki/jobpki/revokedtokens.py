"""The revoked tokens: the `jti` of each, and until when it is kept, since no token that it could be lives longer.

{"version": 1, "tokens": {"3q2-7wAAAAAAAAAAAAAAAA": "2027-01-01T00:00:00+00:00"}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jobpki.access import read_secret
from jobpki.errors import PkiError
from jobpki.layout import SECRET_MODE
from jobpki.publish import publish_file

_VERSION = 1
_ID = re.compile(r"[A-Za-z0-9_-]{22}")  # 16 random bytes, base64url: identity/token.py
# The longest that auth.token_lifetime_seconds can be.
_KEPT = timedelta(days=366)


def read_revoked_tokens(path: Path) -> dict[str, datetime]:
    """Until when each is kept, by its `jti`; none where there is no file.

    Raises:
        PkiError: it cannot be read, is for others to read or change, or is no such file.
    """
    return parse_revoked_tokens(read_secret(path), path) if path.exists() else {}


def parse_revoked_tokens(content: bytes, path: Path) -> dict[str, datetime]:
    """As read_revoked_tokens, of bytes that were read from `path`."""
    try:
        document = json.loads(content)
        if document["version"] != _VERSION:
            raise PkiError(f"is not a list of revoked tokens of version {_VERSION}", path=path)
        return {
            token_id: datetime.fromisoformat(until).astimezone(UTC) for token_id, until in document["tokens"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise PkiError("is not a list of revoked tokens", path=path) from error


def add_revoked_tokens(
    path: Path, token_ids: Iterable[str], *, now: datetime, until: datetime | None = None
) -> list[str]:
    """Puts tokens on the list, and forgets those that are over. Returns those that were not on it. `until`: when they
    end by themselves, where that is known.

    Raises:
        PkiError: one is not a token's id, or the list cannot be read.
    """
    asked = list(dict.fromkeys(token_ids))
    for token_id in asked:
        if not _ID.fullmatch(token_id):
            raise PkiError(f"{token_id!r} is not a token's id: the service's audit log has them, as `token`")
    known = read_revoked_tokens(path)
    added = [token_id for token_id in asked if token_id not in known]
    if added:
        kept = {token_id: until for token_id, until in known.items() if until > now}
        kept |= dict.fromkeys(added, until or now + _KEPT)
        tokens = {token_id: end.isoformat() for token_id, end in kept.items()}
        content = json.dumps({"version": _VERSION, "tokens": tokens}, indent=1)
        publish_file(path, f"{content}\n".encode(), mode=SECRET_MODE)
    return added
