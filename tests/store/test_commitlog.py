from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from jobworker.server.store.commitlog import CommitLog, segments
from jobworker.server.store.disk import Disk
from jobworker.server.store.frames import Accept, Head, Lines, accept_frame, read_segment, results_frame

ID = "01900000-0000-7000-8000-000000000001"


class FailingDisk(Disk):
    """The real one, until it is to fail."""

    def __init__(self) -> None:
        self.error: OSError | None = None

    def write_synced(self, fd: int, data: bytes, at: int) -> None:
        if self.error is not None:
            super().write(fd, data[: len(data) // 2], at)
            raise self.error
        super().write_synced(fd, data, at)


class Opened:
    """A commit log, and what it told."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.disk = FailingDisk()
        self.full: list[int] = []
        self.failures: list[OSError] = []
        self.log = CommitLog(
            folder=str(folder),
            disk=self.disk,
            boot="b",
            full=self.full.append,
            failed=self.failures.append,
            timed=lambda *_: None,
            clock=lambda: 0.0,
            **options,  # type: ignore[arg-type]
        )

    async def commit(self, *frames: bytes) -> list[OSError | None]:
        """What each of them was told."""
        told: list[OSError | None] = []
        done = asyncio.Event()
        for frame in frames:
            self.log.append(frame, lambda error: (told.append(error), len(told) == len(frames) and done.set()))
        await asyncio.wait_for(done.wait(), 30)
        return told


@pytest.fixture
async def open_log(tmp_path: Path) -> AsyncIterator[Callable[..., Opened]]:
    opened: list[Opened] = []

    def make(**options: object) -> Opened:
        one = Opened(tmp_path, **options)
        opened.append(one)
        last = segments(str(tmp_path))
        one.log.use(one.log.make(last[-1][0] + 1 if last else 1))
        return one

    yield make
    for one in opened:
        one.log.close()


def read(folder: Path) -> tuple[list[Accept | Lines], list[int]]:
    frames: list[Accept | Lines] = []
    damaged: list[int] = []
    for _, path in segments(str(folder)):
        head, found = read_segment(Path(path).read_bytes(), damaged.append)
        assert head is not None
        frames += found
    return frames, damaged


def lines(n: int) -> bytes:
    return results_frame(ID, n, b'{"k":"start","job":%d,"at":1}\n' % n)


async def test_what_was_committed_is_read_back_in_order(tmp_path: Path, open_log) -> None:
    opened = open_log()
    accepted = accept_frame(ID, 1, b"header\njob\nend\n")
    assert await opened.commit(accepted, *(lines(n) for n in range(100))) == [None] * 101
    frames, damaged = read(tmp_path)
    assert frames[0] == Accept(ID, 1, b"header\njob\nend\n")
    assert frames[1:] == [Lines(ID, n, b'{"k":"start","job":%d,"at":1}\n' % n) for n in range(100)]
    assert damaged == []


async def test_a_segment_that_is_full_is_followed_by_another(tmp_path: Path, open_log) -> None:
    opened = open_log(segment_bytes=2000)
    for n in range(100):
        await opened.commit(lines(n))
    assert opened.full == list(range(1, opened.full[-1] + 1))
    assert len(opened.full) > 3
    assert [n for n, _ in segments(str(tmp_path))] == list(range(1, opened.full[-1] + 2))
    assert [frame.offset for frame in read(tmp_path)[0]] == list(range(100))


async def test_a_commit_that_fails_is_told_and_nothing_more_is_taken_until_there_is_a_new_segment(
    tmp_path: Path, open_log
) -> None:
    opened = open_log()
    await opened.commit(lines(0))
    opened.disk.error = OSError(5, "Input/output error")
    assert await opened.commit(lines(1), lines(2)) == [opened.disk.error] * 2
    assert opened.failures == [opened.disk.error]
    opened.disk.error = None
    refused = await opened.commit(lines(3))
    assert isinstance(refused[0], OSError)
    opened.log.use(opened.log.make(2, [lines(1)]))
    assert await opened.commit(lines(4)) == [None]
    assert [frame.offset for frame in read(tmp_path)[0]] == [0, 1, 4]


async def test_a_torn_end_counts_for_nothing_wherever_it_is_torn(tmp_path: Path, open_log) -> None:
    opened = open_log()
    await opened.commit(lines(0))
    path = segments(str(tmp_path))[0][1]
    before = len(Path(path).read_bytes().rstrip(b"\0"))
    await opened.commit(lines(1), lines(2))
    whole = Path(path).read_bytes().rstrip(b"\0")
    for cut in range(before, len(whole)):
        for rest in (b"", bytes(len(whole) - cut), b"\xff" * (len(whole) - cut)):
            found: list[int] = []
            frames = list(read_segment(whole[:cut] + rest, found.append)[1])
            assert found == []
            assert [frame.offset for frame in frames] in ([0], [0, 1])  # type: ignore[union-attr]


async def test_damage_before_the_end_is_told_and_what_lies_behind_it_is_read(tmp_path: Path, open_log) -> None:
    opened = open_log()
    for n in range(3):
        await opened.commit(lines(n))
    path = segments(str(tmp_path))[0][1]
    whole = Path(path).read_bytes().rstrip(b"\0")
    second = whole.index(b'"o":1')
    for at in range(second - 60, second + 20):
        found: list[int] = []
        frames = list(read_segment(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], found.append)[1])
        assert [frame.offset for frame in frames if frame.offset != 1] == [0, 2]  # type: ignore[union-attr]
        assert found or len(frames) == 3


async def test_a_segment_that_was_never_begun_has_no_head(tmp_path: Path) -> None:
    assert read_segment(b"", lambda _: None)[0] is None
    assert read_segment(bytes(100), lambda _: None)[0] is None


async def test_a_full_disk_leaves_no_half_made_segment(tmp_path: Path, open_log) -> None:
    opened = open_log()

    def refuse(fd: int, size: int) -> None:
        raise OSError(28, os.strerror(28))

    opened.disk.reserve = refuse
    with pytest.raises(OSError, match="No space left"):
        opened.log.make(7)
    assert [n for n, _ in segments(str(tmp_path))] == [1]
    assert Head(1, "b") == read_segment(Path(segments(str(tmp_path))[0][1]).read_bytes(), lambda _: None)[0]
