"""The disk of file systems that lack a call."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from jobworker.server.store.disk import Disk


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_where_a_write_cannot_be_synced_at_once_it_is_synced_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    synced: list[bytes] = []

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    def sync(fd: int) -> None:
        synced.append((tmp_path / "f").read_bytes())
        real(fd)

    real = os.fdatasync
    monkeypatch.setattr(os, "pwritev", refuse)
    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    disk = Disk()
    fd = disk.create(str(tmp_path / "f"))
    disk.reserve(fd, 1 << 20)
    disk.write_synced(fd, b"one", 0)
    disk.write_synced(fd, b"two", 3)
    disk.close(fd)
    assert synced == [b"one", b"onetwo"]


def test_any_other_failure_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pwritev", fail)
    disk = Disk()
    fd = disk.create(str(tmp_path / "f"))
    with pytest.raises(OSError, match="Input/output error"):
        disk.write_synced(fd, b"one", 0)
    disk.close(fd)
