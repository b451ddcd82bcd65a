"""What jobpki has changed, in an audit log of its own, `audit.jsonl` in the PKI folder: it runs without the service,
perhaps as another user. No password and no key is in it.

A line is written when its change is on disk, before the command says that it is done. A run that is killed in between
leaves the change without a line.
"""

from __future__ import annotations

import os
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

from jobpki.access import owner_name
from jobpki.auditfile import AuditFile
from jobpki.layout import Layout
from jobpki.publish import give, sync_folder

_MAX_BYTES, _FILES = 16 << 20, 8
_NOBODY = 0xFFFFFFFF  # nobody has logged in: credentials of audit, linux/audit.h


def record(layout: Layout, what: str, **fields: object) -> None:
    """Writes a line, on disk when this returns. Under the folder's lock alone.

    Args:
        layout: the folder's.
        what: was done, `user.disable`.
        fields: to whom or what. Those that are None are left out.

    Raises:
        OSError: it cannot be written.
    """
    given = {key: value for key, value in fields.items() if value is not None}
    event = {"time": _now(), "what": what, "os_user": owner_name(os.getuid()), **_login(), **given, "code": "OK"}
    file = AuditFile(str(layout.root), storage=_Storage(), max_bytes=_MAX_BYTES, files=_FILES, time=_now)
    with closing(file):
        file.append([event], sync=True)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def _login() -> dict[str, str]:
    """Who logged in to this machine, before sudo(8) and su(1): the kernel keeps it (proc(5), loginuid)."""
    with suppress(OSError, ValueError):
        uid = int(Path("/proc/self/loginuid").read_text())
        if uid != _NOBODY:
            return {"os_login": owner_name(uid)}
    return {}


class _Storage:
    """An auditfile.Storage. Root's file is the folder owner's."""

    def open(self, path: str) -> int:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        give(fd, Path(path).parent)
        return fd

    def write(self, fd: int, data: bytes, at: int) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(fd, view, at)
            view, at = view[done:], at + done

    def write_synced(self, fd: int, data: bytes, at: int) -> None:
        self.write(fd, data, at)
        self.sync(fd)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        os.fsync(fd)

    def sync_folder(self, path: str) -> None:
        sync_folder(Path(path))

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def remove(self, path: str) -> None:
        os.unlink(path)

    def close(self, fd: int) -> None:
        os.close(fd)
