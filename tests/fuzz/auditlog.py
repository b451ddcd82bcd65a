"""An audit log: checked, and gone on with."""

from __future__ import annotations

from pathlib import Path

from jobpki.auditchain import Link, encode, torn
from jobpki.auditfile import NAME, AuditFile
from jobpki.auditverify import summary, verify
from jobworker.server.store.disk import Disk

__all__ = ["NAME", "lines", "read"]


def lines() -> bytes:
    """A few, of which one closes what a crash tore."""
    first, link = encode({"time": "2026-01-01T00:00:00Z", "what": "login"}, Link())
    torn_end = b'{"time":"2026\n'
    second, link = encode({"time": "2026-01-01T00:00:01Z", **torn(torn_end)}, link)
    return first + torn_end + second + encode({"what": "submit"}, link)[0]


def read(path: str) -> None:
    """Checked; then gone on with, and checked again: what was not a fault before is none after."""
    before = verify([Path(path)])
    summary(before).encode()
    file = AuditFile(str(Path(path).parent), storage=Disk(), max_bytes=1 << 20, files=1, time=lambda: "")
    file.append([{"what": "login"}], sync=False)
    file.close()
    after = verify([Path(path)])
    assert before.faults or not after.faults
