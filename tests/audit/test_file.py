"""The audit log's files: one chain over rotation, restarts, crashes, and a disk that fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobpki.auditchain import decode
from jobpki.auditfile import AuditFile
from jobpki.auditverify import files_of, verify
from jobworker.server.store.disk import Disk
from tests.harness.audit import files, lines

TIME = "2026-01-01T00:00:00.000000Z"


def opened(folder: Path, *, storage: Disk | None = None, max_bytes: int = 2000, kept: int = 5) -> AuditFile:
    return AuditFile(str(folder), storage=storage or Disk(), max_bytes=max_bytes, files=kept, time=lambda: TIME)


def write(file: AuditFile, numbers: Sequence[int], *, sync: bool = True) -> None:
    file.append([{"time": TIME, "what": "login", "user": f"u{number}"} for number in numbers], sync=sync)


def checked(folder: Path) -> list[object]:
    """The users in the lines of a log without a fault."""
    (log,) = files_of([folder])
    found = verify(log)
    assert found.faults == []
    return [line["user"] for line in lines_of(folder)]


def lines_of(folder: Path) -> list[dict[str, object]]:
    raws = b"".join(path.read_bytes() for path in files(folder)).splitlines()
    found = [line for raw in raws if (line := decode(raw + b"\n")) is not None]
    return [dict(line.event) for line in found if "user" in line.event]


def test_the_chain_goes_on_over_rotated_files_and_restarts_and_so_many_are_kept(tmp_path: Path) -> None:
    for begin in range(0, 200, 10):
        file = opened(tmp_path)
        for number in range(begin, begin + 10):
            write(file, [number])
        file.close()
    assert len(files(tmp_path)) == 6
    assert all(path.stat().st_size <= 2000 for path in files(tmp_path))
    users = checked(tmp_path)
    assert users == [f"u{number}" for number in range(200 - len(users), 200)]
    assert [line["n"] for line in lines(tmp_path)] == list(range(201 - len(users), 201))


def test_fewer_files_are_kept_from_the_next_rotation_on(tmp_path: Path) -> None:
    file = opened(tmp_path)
    for number in range(100):
        write(file, [number])
    file.files = 1
    for number in range(100, 150):
        write(file, [number])
    assert len(files(tmp_path)) == 2
    assert checked(tmp_path)[-1] == "u149"


TORN = {
    "within a line": lambda raw: raw[:-40],
    "all of the last line": lambda raw: raw[: raw.rindex(b"\n", 0, -1) + 1] + bytes(100),
    "the last line's line feed": lambda raw: raw[:-1],
    "in the middle of the last lines": lambda raw: raw[:-300] + bytes(150) + raw[-150:],
    "the whole file": lambda raw: bytes(len(raw)),
    "at a file that is there and empty": lambda raw: b"",
}


@pytest.mark.parametrize("name", TORN)
@pytest.mark.parametrize("count", [9, 35])
def test_what_a_crash_tore_is_closed_by_a_line_that_says_so(tmp_path: Path, name: str, count: int) -> None:
    file = opened(tmp_path)
    for number in range(count):
        write(file, [number])
    file.close()
    path = tmp_path / "audit.jsonl"
    torn = TORN[name](path.read_bytes())
    is_torn = bool(torn) and not torn.endswith(b"}")
    path.write_bytes(torn)
    for number in (1000, 1001):
        again = opened(tmp_path)
        assert (again.torn_bytes > 0) == (number == 1000 and is_torn)
        write(again, [number])
        again.close()
    assert path.read_bytes().startswith(torn), "what was torn is left as it was"
    (log,) = files_of([tmp_path])
    found = verify(log)
    if count == 35 or torn.strip(b"\0"):
        assert found.faults == []
    assert len(found.notes) - sum("older files" in note for note in found.notes) == is_torn
    assert [line["user"] for line in lines_of(tmp_path)][-2:] == ["u1000", "u1001"]


def test_a_line_that_was_changed_is_not_taken_for_torn_at_the_next_start(tmp_path: Path) -> None:
    file = opened(tmp_path)
    for number in range(9):
        write(file, [number])
    file.close()
    path = tmp_path / "audit.jsonl"
    for old, new in (
        (b'"u5"', b'"x5"'),
        (b'{"time":"2026-01-01T00:00:00.000000Z","what":"login","user":"u6"', b'{"u6"'),
    ):
        path.write_bytes(path.read_bytes().replace(old, new))
        again = opened(tmp_path)
        assert again.torn_bytes == 0
        write(again, [1000])
        again.close()
        (log,) = files_of([tmp_path])
        assert verify(log).faults != []


def test_a_file_that_was_renamed_or_removed_from_outside_is_followed_by_a_new_one(tmp_path: Path) -> None:
    file = opened(tmp_path, max_bytes=1 << 20)
    write(file, [1])
    (tmp_path / "audit.jsonl").rename(tmp_path / "audit.jsonl.1")
    write(file, [2])
    assert checked(tmp_path) == ["u1", "u2"]
    (tmp_path / "audit.jsonl.1").unlink()
    (tmp_path / "audit.jsonl").unlink()
    write(file, [3])
    assert checked(tmp_path) == ["u3"]
    os.truncate(tmp_path / "audit.jsonl", 0)
    write(file, [4])
    assert checked(tmp_path) == ["u4"]


class Failing(Disk):
    """Fails at the nth call of a kind that changes a file, after half of a write."""

    def __init__(self) -> None:
        self.left: dict[str, int] = {}

    def _fails(self, call: str) -> bool:
        self.left[call] = self.left.get(call, 0) - 1
        return self.left[call] == 0

    def write(self, fd: int, data: bytes, at: int) -> None:  # type: ignore[override]
        if self._fails("write"):
            super().write(fd, data[: len(data) // 2], at)
            raise OSError(errno.ENOSPC, "no room")
        super().write(fd, data, at)

    def write_synced(self, fd: int, data: bytes, at: int) -> None:
        if self._fails("write_synced"):
            super().write(fd, data[: len(data) // 2], at)
            raise OSError(errno.ENOSPC, "no room")
        super().write_synced(fd, data, at)

    def sync(self, fd: int) -> None:
        if self._fails("sync"):
            raise OSError(errno.EIO, "broken")
        super().sync(fd)

    def rename(self, old: str, new: str) -> None:
        if self._fails("rename"):
            raise OSError(errno.EIO, "broken")
        super().rename(old, new)

    def open(self, path: str) -> int:
        if self._fails("open"):
            raise OSError(errno.EMFILE, "too many")
        return super().open(path)


@pytest.mark.parametrize("call", ["write", "write_synced", "sync", "rename", "open"])
@pytest.mark.parametrize("nth", range(1, 12))
def test_a_call_that_fails_costs_the_lines_of_that_moment_and_nothing_else(tmp_path: Path, call: str, nth: int) -> None:
    disk = Failing()
    file = opened(tmp_path, storage=disk, kept=50)
    disk.left[call] = nth
    written = []
    for number in range(60):
        try:
            write(file, [2 * number, 2 * number + 1], sync=number % 3 == 0)
        except OSError:
            continue
        written += [f"u{2 * number}", f"u{2 * number + 1}"]
    assert len(written) >= 118 or call == "open"
    assert checked(tmp_path) == written
    file.close()
    write(opened(tmp_path, kept=50), [1000])
    assert checked(tmp_path) == [*written, "u1000"]
