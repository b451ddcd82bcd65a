"""Once a day, that a certificate is about to end: a user who cannot log in any more has to ask somebody else."""

from __future__ import annotations

import contextlib
import shlex
import time
from typing import TYPE_CHECKING

from jobworker.ctl.exits import complain

if TYPE_CHECKING:
    from pathlib import Path

    from jobworker.ctl.certificate import Certificate
    from jobworker.ctl.tokens import TokenFile

_DAY_SECONDS = 86400.0
_DAYS = 30


def remind(tokens: TokenFile, certificate: Certificate, *, bundle: Path) -> None:
    """One line on stderr, where there is reason to."""
    told = tokens.certificate_ends()
    if told is None:
        return
    ends, left_seconds = told
    days = int(left_seconds // _DAY_SECONDS)
    if days >= _DAYS or certificate.not_after > ends:  # the latter: it was renewed since
        return
    stamp = tokens.path.with_suffix(".told")
    with contextlib.suppress(OSError):
        if abs(time.time() - stamp.stat().st_mtime) < _DAY_SECONDS:
            return
    when = f"in {days} day{'' if days == 1 else 's'}" if days > 0 else "in less than a day"
    user = shlex.quote(certificate.user)
    mend = f"jobpki renew {user} && jobpki export {user} FILE"
    complain(f"{bundle / 'tls.crt'}: ends {when}, on {ends:%Y-%m-%d} - get the bundle anew, from: {mend}")
    with contextlib.suppress(OSError):  # without it, the next command tells it again
        stamp.touch(mode=0o600)
