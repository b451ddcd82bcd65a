"""`jobworker audit verify` on logs that somebody has changed: it names file and line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from jobpki.auditchain import START, Link, encode
from jobpki.auditfile import AuditFile
from jobworker.server.store.disk import Disk
from tests.harness.audit import files, verify

LINES = 40
TIME = "2026-01-01T00:00:00.000000Z"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log of LINES lines, in a file and two rotated ones."""
    file = AuditFile(str(tmp_path), storage=Disk(), max_bytes=2400, files=9, time=lambda: TIME)
    for number in range(1, LINES + 1):
        file.append([{"time": TIME, "what": "login", "user": f"u{number}"}], sync=True)
    file.close()
    assert len(files(tmp_path)) == 3
    return tmp_path


def test_a_log_that_is_whole_is_ok(folder: Path) -> None:
    done = verify(folder)
    assert done.returncode == 0, done.stderr
    assert f"OK: {LINES} lines in 3 files, {TIME} to {TIME}; the last is number {LINES}, SHA-256 " in done.stdout
    # In whatever order a shell has them.
    assert verify(*sorted(files(folder))).stdout == done.stdout


def test_the_hash_is_that_of_the_line_as_sha256sum_has_it() -> None:
    line, link = encode({"what": "login"}, Link())
    assert json.loads(line) == {"what": "login", "n": 1, "prev": START}
    sums = subprocess.run(["sha256sum"], input=line.removesuffix(b"\n"), capture_output=True, check=True, timeout=60)
    assert sums.stdout.split()[0].decode() == link.digest


def edited(path: Path, edit: Callable[[list[bytes]], None]) -> None:
    content = path.read_bytes().splitlines(keepends=True)
    edit(content)
    path.write_bytes(b"".join(content))


def change(content: list[bytes]) -> None:
    content[3] = content[3].replace(b'"user":"u', b'"user":"v')


def remove(content: list[bytes]) -> None:
    del content[3:5]


def insert(content: list[bytes]) -> None:
    """A forged line, as good as its author can make it without the ones behind."""
    before = json.loads(content[3])
    content.insert(4, encode({"what": "login", "user": "nobody"}, Link(before["n"], "0" * 64))[0])


def copy(content: list[bytes]) -> None:
    content.insert(4, content[1])


def move(content: list[bytes]) -> None:
    content[3], content[4] = content[4], content[3]


def garble(content: list[bytes]) -> None:
    content[3] = b"not JSON\n"


def blank(content: list[bytes]) -> None:
    """As pages that were lost would read."""
    content[3] = bytes(len(content[3]))


def cut(content: list[bytes]) -> None:
    content[3] = content[3][:50] + b"\n"


@pytest.mark.parametrize(("edit", "words"), [
    (change, "line 4: its hash is not the one that"),
    (remove, "line 4: 2 lines before it are missing"),
    (insert, "line 5: its hash is not the one that"),
    (copy, "line 5: has the number"),
    (move, "line 4: 1 lines before it are missing"),
    (garble, "line 4: is not a line of an audit log"),
    (blank, "line 4: is not a line of an audit log"),
    (cut, "line 4: is not a line of an audit log"),
])  # fmt: skip
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_line_that_was_tampered_with_is_named(
    folder: Path, number: int, edit: Callable[[list[bytes]], None], words: str
) -> None:
    path = files(folder)[number]
    edited(path, edit)
    done = verify(folder)
    assert done.returncode == 1
    assert f"{path}: {words}" in done.stderr, done.stderr
    assert "NOT OK" in done.stdout
    # The places are few: what is whole behind one is not told.
    assert done.stderr.count("\n") <= 3, done.stderr


def test_a_change_in_the_last_line_of_a_file_is_seen_by_the_first_of_the_next(folder: Path) -> None:
    path = files(folder)[0]
    edited(path, lambda content: content.append(content.pop().replace(b"login", b"logon")))
    assert f"{path}: line " in verify(folder).stderr


def test_a_file_that_is_missing_between_others_is_an_error_and_at_the_beginning_is_none(folder: Path) -> None:
    oldest, middle, newest = files(folder)
    kept = middle.read_bytes()
    middle.unlink()
    done = verify(folder)
    assert done.returncode == 1
    missing = len(kept.splitlines())
    assert f"{newest}: line 1: {missing} lines before it are missing" in done.stderr
    middle.write_bytes(kept)
    begin = len(oldest.read_bytes().splitlines())
    oldest.unlink()
    done = verify(folder)
    assert done.returncode == 0
    assert f"note: {middle}: line 1: begins with number {begin + 1}: older files are not here" in done.stdout


def test_lines_removed_from_the_beginning_of_the_first_file_are_no_secret(folder: Path) -> None:
    edited(files(folder)[0], lambda content: content.pop(0))
    assert "begins with number 2" in verify(folder).stdout


def test_a_large_file_of_garbage_is_told_soon(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").write_bytes(b"\0x\n" * 100_000)
    done = verify(tmp_path)
    assert done.returncode == 1
    assert "NOT OK: 20 or more faults" in done.stdout


def test_what_somebody_has_written_into_a_line_does_not_reach_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").write_bytes(encode({"time": "\x1b]0;x\x07\ud800", "what": "\x1b[2J"}, Link())[0])
    done = verify(tmp_path)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert "OK: 1 lines in 1 files, ? to ?" in done.stdout


def test_nothing_to_read_is_status_2(tmp_path: Path) -> None:
    done = verify(tmp_path)
    assert done.returncode == 2
    assert "No such file" in done.stderr
