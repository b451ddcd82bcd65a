"""Logs that keep their end alone: what was taken out of them again is one gap, to the byte."""

import os
from pathlib import Path

import pytest

from jobworker.server.logs.follow import DROPPED_REASON, LOST_REASON
from jobworker.server.logs.logfile import PIECE_BYTES, LogFile, LogFiles
from jobworker.server.model import LogStream
from jobworker.server.store.logsize import log_size
from tests.logs.conftest import Follower, Following
from tests.logs.livebatch import LiveBatch

BLOCK = 64 << 10
DATA = b"".join(b"%015d\n" % number for number in range(BLOCK))  # 1 MiB, each 16 bytes different


def told(follower: Follower) -> list[tuple[str, int, int]]:
    return [(piece.kind, piece.offset, piece.length) for piece in follower.pieces]


def data_is_right(follower: Follower) -> bool:
    return all(p.data == DATA[p.offset : p.offset + len(p.data)] for p in follower.pieces if p.kind == "data")


@pytest.fixture
def batch(tmp_path: Path) -> LiveBatch:
    """A job that has printed DATA, and runs."""
    made = LiveBatch(tmp_path, 1)
    made.start(0)
    made.write(0, DATA)
    return made


async def test_a_follower_that_comes_later_gets_one_gap_and_what_is_there(batch: LiveBatch, follow: Following) -> None:
    batch.punch(0, 9 * BLOCK)
    follower = await follow(batch)
    await follower.until_data(0, DATA[9 * BLOCK :])
    assert told(follower)[0] == ("gap", 0, 9 * BLOCK)
    assert follower.pieces[0].reason == DROPPED_REASON
    batch.write(0, b"more")
    await follower.until_data(0, DATA[9 * BLOCK :] + b"more")
    batch.end(0, dropped_head=(9 * BLOCK,))
    await follower.over()
    assert told(follower)[-1][:2] == ("end", len(DATA) + 4)
    assert [piece.kind for piece in follower.pieces].count("gap") == 1


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("offset", [0, 1, 5 * BLOCK - 1, 5 * BLOCK, 5 * BLOCK + 1])
async def test_going_on_from_within_what_is_gone_gets_the_rest_of_the_gap(
    batch: LiveBatch, follow: Following, offset: int, finished: bool
) -> None:
    batch.punch(0, 5 * BLOCK)
    if finished:
        batch.end(0, dropped_head=(5 * BLOCK,))
    follower = await follow(batch, starts={int(LogStream.MERGED): offset}, follow=finished)
    await follower.over()
    begin = max(offset, 5 * BLOCK)
    gaps = [piece for piece in told(follower) if piece[0] == "gap"]
    assert gaps == ([("gap", offset, 5 * BLOCK - offset)] if offset < 5 * BLOCK else [])
    assert follower.data(0) == DATA[begin:]


async def test_what_is_punched_between_reading_and_looking_is_a_gap_and_not_nul_bytes(
    batch: LiveBatch, follow: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The executor may punch at any moment: here after the second piece was read, and before it was looked at."""
    hole, looks = LogFile.hole, 0

    def punched_meanwhile(self: LogFile, begin: int, stop: int) -> tuple[int, int] | None:
        nonlocal looks
        looks += 1
        if looks == 2:
            batch.punch(0, 2 * PIECE_BYTES - BLOCK)
        return hole(self, begin, stop)

    monkeypatch.setattr(LogFile, "hole", punched_meanwhile)
    follower = await follow(batch, follow=False)
    await follower.over()
    assert told(follower)[:2] == [("data", 0, PIECE_BYTES), ("gap", PIECE_BYTES, PIECE_BYTES - BLOCK)]
    assert data_is_right(follower)
    assert sum(piece.length for piece in follower.pieces) == len(DATA)
    assert sum(piece.length for piece in follower.pieces) == len(DATA)


@pytest.mark.parametrize("kept", [b"the end", b""])
async def test_a_gap_of_many_pieces_is_one(tmp_path: Path, follow: Following, kept: bytes) -> None:
    batch = LiveBatch(tmp_path, 1)
    batch.start(0)
    os.truncate(batch.log_path(0, LogStream.MERGED), 1 << 33)
    batch.write(0, kept)
    follower = await follow(batch, follow=False)
    await follower.over()
    assert told(follower) == [("gap", 0, 1 << 33), *([("data", 1 << 33, 7)] if kept else [])]


async def test_a_final_log_is_answered_as_recorded_even_where_its_blocks_came_back(
    batch: LiveBatch, follow: Following
) -> None:
    """After a power failure a file system may have forgotten a hole that was told."""
    batch.end(0, dropped_head=(3 * BLOCK,))
    follower = await follow(batch)
    await follower.over()
    assert told(follower)[0] == ("gap", 0, 3 * BLOCK)
    assert follower.data(0) == DATA[3 * BLOCK :]


async def test_what_was_dropped_and_what_a_power_failure_took_are_two_gaps(tmp_path: Path, follow: Following) -> None:
    batch = LiveBatch(tmp_path, 1)
    batch.start(0)
    batch.write(0, DATA)
    os.truncate(batch.log_path(0, LogStream.MERGED), len(DATA) + BLOCK)
    batch.punch(0, BLOCK)
    batch.end(0, log_bytes=(len(DATA) + 2 * BLOCK,), dropped_head=(BLOCK,))
    follower = await follow(batch)
    await follower.over()
    assert [(p.offset, p.length, p.reason) for p in follower.pieces if p.kind == "gap"] == [
        (0, BLOCK, DROPPED_REASON), (len(DATA), BLOCK, LOST_REASON), (len(DATA) + BLOCK, BLOCK, LOST_REASON),
    ]  # fmt: skip
    assert follower.data(0) == DATA[BLOCK:]


@pytest.mark.parametrize(("lines", "begin"), [(1, len(DATA) - 16), (4096, len(DATA) - BLOCK), (BLOCK, 0)])
async def test_the_last_lines_are_found_without_reading_what_is_gone(
    batch: LiveBatch, files: LogFiles, follow: Following, lines: int, begin: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = LogFile.read_cold
    least = len(DATA)

    async def noted(self: LogFile, offset: int, length: int) -> bytes:
        nonlocal least
        least = min(least, offset)
        return await read(self, offset, length)

    monkeypatch.setattr(LogFile, "read_cold", noted)
    batch.punch(0, 8 * BLOCK)
    follower = await follow(batch, tail_lines=lines, follow=False)
    await follower.over()
    assert least >= 8 * BLOCK
    assert follower.pieces[0].offset == begin
    assert follower.data(0) == DATA[max(begin, 8 * BLOCK) :]
    assert len(files) == 0


def test_the_size_of_a_log_says_what_is_gone_of_it(batch: LiveBatch, tmp_path: Path) -> None:
    path = batch.log_path(0, LogStream.MERGED)
    assert log_size(path) == (len(DATA), 0)
    batch.punch(0, 7 * BLOCK)
    assert log_size(path) == (len(DATA), 7 * BLOCK)
    assert log_size(str(tmp_path / "nowhere")) == (0, 0)
    # A power failure leaves a length and no bytes, or a hole at the end: nothing of that was dropped.
    for size, kept in ((3 * BLOCK, b""), (3 * BLOCK, b"begin")):
        (tmp_path / "lost").write_bytes(kept)
        os.truncate(tmp_path / "lost", size)
        assert log_size(str(tmp_path / "lost")) == (size, 0)
