"""The log's file: rotated by size, from outside, and after what crashes leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from jobworker.server.telemetry.logfile import RotatedFile
from jobworker.server.telemetry.logging import Level, open_log
from tests.harness.service import running
from tests.harness.wait import until


def lines(number: int) -> bytes:
    return b'{"line": %06d}\n' % number


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_is_rotated_by_size_and_so_many_are_kept_without_a_line_lost_in_between(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path / "log", max_bytes=170, files=3)
    for number in range(100):
        file.write(lines(number))
    assert names(tmp_path) == ["log", "log.1", "log.2", "log.3"]
    whole = b"".join((tmp_path / name).read_bytes() for name in ("log.3", "log.2", "log.1", "log"))
    assert whole == b"".join(lines(number) for number in range(100 - len(whole) // 17, 100))
    assert all((tmp_path / name).stat().st_size <= 170 for name in names(tmp_path))
    file.files = 1
    for number in range(20):
        file.write(lines(number))
    assert names(tmp_path) == ["log", "log.1"]


def test_others_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("log.7.gz", "log-20260101", "log.old", "other.9"):
        (tmp_path / name).touch()
    file = RotatedFile(tmp_path / "log", max_bytes=40, files=2)
    for number in range(30):
        file.write(lines(number))
    assert names(tmp_path) == ["log", "log-20260101", "log.1", "log.2", "log.7.gz", "log.old", "other.9"]


class Tail:
    """Reads on as collectors do: what is open to its end, then the file after it."""

    def __init__(self, path: Path) -> None:
        self.seen = bytearray()
        self._path = path
        self._done = threading.Event()
        self._reader: BinaryIO = path.open("rb")
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        """Once all is written: reads the rest."""
        self._done.set()
        self._thread.join()
        self._reader.close()

    def _run(self) -> None:
        while not self._done.is_set() or self._is_renamed():
            self.seen.extend(self._reader.read())
            if self._is_renamed():
                self.seen.extend(self._reader.read())
                following = self._following()
                self._reader.close()
                self._reader = following
        self.seen.extend(self._reader.read())

    @property
    def _inode(self) -> int:
        return os.fstat(self._reader.fileno()).st_ino

    def _is_renamed(self) -> bool:
        return self._inode != inode_of(self._path)

    def _following(self) -> BinaryIO:
        """It has the number below, unless it was renamed meanwhile as well."""
        while True:
            for number in range(1, 51):
                before = self._path.with_name(f"log.{number}")
                after = self._path if number == 1 else self._path.with_name(f"log.{number - 1}")
                if inode_of(before) == self._inode and inode_of(after):
                    file = after.open("rb")
                    if inode_of(before) == self._inode:
                        return file
                    file.close()


def inode_of(path: Path) -> int:
    """0 while there is none, between the two steps of a rotation."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def test_whoever_reads_on_in_a_file_that_is_renamed_misses_nothing(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path / "log", max_bytes=1 << 12, files=50)
    file.write(lines(0))
    tail = Tail(tmp_path / "log")
    for number in range(1, 5000):
        file.write(lines(number))
        if number % 200 == 0:
            until(lambda reached=number: len(tail.seen) >= 17 * reached, "the reader keeps up")  # type: ignore[misc]
    tail.end()
    assert bytes(tail.seen) == b"".join(lines(number) for number in range(5000))


@pytest.mark.parametrize("deed", ["rename", "remove", "truncate"])
def test_it_may_be_rotated_from_outside(tmp_path: Path, deed: str) -> None:
    path = tmp_path / "log"
    file = RotatedFile(path, max_bytes=1 << 20, files=3)
    file.write(lines(1))
    if deed == "rename":
        path.rename(tmp_path / "log-old")
    elif deed == "remove":
        path.unlink()
    else:
        os.truncate(path, 0)
    file.write(lines(2))
    assert path.read_bytes() == lines(2)


def test_a_line_that_was_cut_off_does_not_run_into_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(lines(1) + lines(2)[:7])
    RotatedFile(path, max_bytes=1 << 20, files=3).write(lines(3))
    assert path.read_bytes().splitlines() == [lines(1).strip(), lines(2)[:7], lines(3).strip()]


def test_a_folder_that_takes_no_rename_is_no_reason_to_lose_lines(tmp_path: Path) -> None:
    (tmp_path / "log.1" / "full").mkdir(parents=True)  # a folder cannot be replaced by a file
    (tmp_path / "log.2" / "full").mkdir(parents=True)
    file = RotatedFile(tmp_path / "log", max_bytes=40, files=1)
    for number in range(10):
        file.write(lines(number))
    assert (tmp_path / "log").read_bytes() == b"".join(map(lines, range(10)))


def test_logrotate_of_the_system_works_with_a_hang_up(tmp_path: Path) -> None:
    with running(tmp_path / "service") as service:
        log = service.folder / "logs" / "service.jsonl"
        until(lambda: "listening" in log.read_text(), "its start")
        log.rename(log.with_name("service.jsonl-20260101"))
        os.kill(service.child("server"), signal.SIGHUP)
        until(log.exists, "the new file, with nothing to write")
        api = service.api()
        batch = api.submit("true")
        api.wait(batch)
        until(lambda: "batch finished" in log.read_text(), "its lines are in the new one")
        assert batch not in log.with_name("service.jsonl-20260101").read_text()


def test_the_bounds_may_be_changed_while_the_service_runs(tmp_path: Path) -> None:
    with running(tmp_path / "service", LOGS__MAX_BYTES="65536", LOGS__FILES="2", LOG_LEVEL="debug") as service:
        api = service.api()
        logs = service.folder / "logs"
        for _ in range(3):
            api.wait(api.submit(*["true"] * 300))
        until(lambda: {"service.jsonl", "service.jsonl.1", "service.jsonl.2"} <= set(names(logs)), "two older ones")
        assert "service.jsonl.3" not in names(logs)


# A program that logs as the server does, so that its disk and its terminal may be anything.
_PROGRAM = """
import sys
from pathlib import Path
from jobworker.server.telemetry.logging import Level, open_log
log = open_log(Path(sys.argv[1]), level=Level("info"), max_bytes=1 << 30, files=1)
for number in range(5000):
    log.logger.info("line", number=number, filler="x" * 100)
print("told", flush=True)
sys.stdin.read()
log.writer.close()
"""


def test_a_terminal_that_takes_nothing_holds_nobody_up_and_the_file_is_whole(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as program:  # fmt: skip
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == b"told\n"
        # Nobody has read its standard error, a pipe of 64 KiB.
        until(lambda: (tmp_path / "service.jsonl").read_bytes().count(b"\n") == 5000, "every line is in the file")
        program.stdin.close()
        assert program.stderr is not None
        shown = program.stderr.read()
        assert program.wait(60) == 0
    assert 0 < shown.count(b"\n") < 5000


def test_a_full_disk_costs_lines_and_says_how_many(tmp_path: Path) -> None:
    # /dev/full: "no space left on device", always (full(4)). Then there is room again.
    (tmp_path / "service.jsonl").symlink_to("/dev/full")
    log = open_log(tmp_path, level=Level("info"), max_bytes=1 << 20, files=1)
    for number in range(10):
        log.logger.info("lost", number=number)
    until(lambda: log.writer.lost == 10, "they are lost")
    (tmp_path / "service.jsonl").unlink()
    log.logger.info("kept")
    log.writer.close()
    text = (tmp_path / "service.jsonl").read_text()
    assert '"lines": 10' in text
    assert "log lines were lost" in text
    assert '"event": "kept"' in text
    assert '"event": "lost"' not in text


def test_what_would_steer_a_terminal_is_shown_as_what_it_is_and_the_file_has_it_whole(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from jobworker.server.telemetry.logging import Level, open_log\n"
        "log = open_log(Path(sys.argv[1]), level=Level('info'), max_bytes=1 << 20, files=1)\n"
        "log.logger.info('event', user='a\\x1b]0;title\\x07\\x9b2J\\u202eb\\rc')\n"
        "log.writer.close()"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, check=True, timeout=60)
    shown = done.stderr.decode()
    assert [c for c in shown if not c.isprintable()] == ["\n"]
    assert r"a\x1b]0;title\x07\x9b2J\u202eb" in shown
    line = json.loads((tmp_path / "service.jsonl").read_text())
    assert line["user"] == "a\x1b]0;title\x07\x9b2J\u202eb\rc"
