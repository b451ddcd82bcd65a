"""A batch that ended before it was followed."""

import os
from pathlib import Path

import pytest

from jobworker.server.logs.logfile import PIECE_BYTES, LogFiles
from jobworker.server.logs.logquery import LogQuery, log_key
from jobworker.server.logs.merge import Merge
from jobworker.server.model import LogStream, OutputMode
from tests.logs.conftest import Following, Pieces
from tests.logs.livebatch import LiveBatch


async def test_every_log_comes_whole_and_in_index_order(tmp_path: Path, follow: Following) -> None:
    batch = LiveBatch(tmp_path, 3)
    big = os.urandom(3 * PIECE_BYTES + 17)
    batch.run(2, b"last")
    batch.run(0, big)
    batch.skip(1)
    follower = await follow(batch)
    await follower.over()
    assert follower.ended() == [0, 1, 2]
    assert follower.data(0) == big
    assert follower.data(2) == b"last"
    assert max(len(piece.data) for piece in follower.pieces) == PIECE_BYTES


async def test_a_large_batch_has_few_files_open_at_a_time(tmp_path: Path, files: LogFiles) -> None:
    batch = LiveBatch(tmp_path, 3000, output=OutputMode.SEPARATE)
    for index in range(3000):
        batch.run(index, b"x")
    most = ends = 0
    async with Merge(batch=batch, query=LogQuery(range(3000)), files=files, encoder=Pieces()) as merge:
        while (piece := await merge.next()) is not None:
            most = max(most, len(files))
            ends += piece.kind == "end"
    assert ends == 6000
    assert most <= 2


async def test_jobs_that_end_while_the_follower_looks_elsewhere_are_opened_one_at_a_time(
    tmp_path: Path, files: LogFiles
) -> None:
    batch = LiveBatch(tmp_path, 500)
    most = ends = 0
    async with Merge(batch=batch, query=LogQuery(range(500)), files=files, encoder=Pieces()) as merge:
        batch.run(0, b"first")
        await merge.next()
        for index in range(1, 500):
            batch.run(index, b"x")
        while (piece := await merge.next()) is not None:
            most = max(most, len(files))
            ends += piece.kind == "end"
    assert ends == 500
    assert most <= 2


async def test_bytes_lost_with_the_machine_are_a_gap_before_the_end(tmp_path: Path, follow: Following) -> None:
    batch = LiveBatch(tmp_path, 1)
    batch.start(0)
    batch.write(0, b"kept")
    batch.end(0, log_bytes=(10,))
    follower = await follow(batch)
    await follower.over()
    assert [(p.kind, p.offset, p.length) for p in follower.pieces] == [("data", 0, 4), ("gap", 4, 6), ("end", 10, 0)]


@pytest.mark.parametrize("ends_in_a_hole", [False, True])
async def test_bytes_that_the_disk_never_had_are_gaps_and_not_nul_bytes(
    tmp_path: Path, follow: Following, ends_in_a_hole: bool
) -> None:
    batch = LiveBatch(tmp_path, 1)
    batch.start(0)
    first, last = b"\0" * 4096 + b"a" * 4096, b"" if ends_in_a_hole else b"z" * 10
    # NUL bytes that a job printed are data; between the two, a file system that lost pages has a hole.
    path = batch.log_path(0, LogStream.MERGED)
    batch.write(0, first)
    os.truncate(path, len(first) + 3 * 4096)
    batch.write(0, last)
    batch.end(0)
    follower = await follow(batch)
    await follower.over()
    found = [(p.kind, p.offset, p.length or len(p.data)) for p in follower.pieces]
    expected = [("data", 0, 8192), ("gap", 8192, 12288)]
    if not ends_in_a_hole:
        expected.append(("data", 20480, 10))
    assert found[:-1] == expected
    assert b"".join(p.data for p in follower.pieces) == first + last
    assert follower.pieces[-1].kind == "end"


async def test_what_was_noted_of_a_log_is_a_gap_wherever_reading_begins(tmp_path: Path, follow: Following) -> None:
    batch = LiveBatch(tmp_path, 1)
    batch.run(0, b"abc" + bytes(5) + b"def\0gh" + bytes(4))
    Path(f"{batch.log_path(0, LogStream.MERGED)}.gaps").write_text("[[3, 8], [14, 18]]")
    follower = await follow(batch)
    await follower.over()
    found = [(p.kind, p.offset, p.data or p.length) for p in follower.pieces[:-1]]
    assert found == [("data", 0, b"abc"), ("gap", 3, 5), ("data", 8, b"def\0gh"), ("gap", 14, 4)]
    follower = await follow(batch, starts={log_key(0, LogStream.MERGED): 5})
    await follower.over()
    assert (follower.pieces[0].kind, follower.pieces[0].offset, follower.pieces[0].length) == ("gap", 5, 3)


async def test_a_lost_file_is_one_gap(tmp_path: Path, follow: Following) -> None:
    batch = LiveBatch(tmp_path, 1)
    batch.run(0, b"gone")
    os.unlink(batch.log_path(0, LogStream.MERGED))
    follower = await follow(batch)
    await follower.over()
    assert [(p.kind, p.offset, p.length) for p in follower.pieces] == [("gap", 0, 4), ("end", 4, 0)]


async def test_nothing_beyond_the_recorded_length_is_sent(tmp_path: Path, follow: Following) -> None:
    batch = LiveBatch(tmp_path, 1)
    batch.start(0)
    batch.write(0, b"0123456789")
    batch.end(0, log_bytes=(4,))
    follower = await follow(batch)
    await follower.over()
    assert follower.data(0) == b"0123"


async def test_bytes_that_have_to_come_from_disk_come_as_well(tmp_path: Path, follow: Following) -> None:
    batch = LiveBatch(tmp_path, 1)
    data = os.urandom(2 << 20)
    batch.run(0, data)
    with open(batch.log_path(0, LogStream.MERGED), "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    follower = await follow(batch)
    await follower.over()
    assert follower.data(0) == data
