"""Where following begins: cursors, tails, and what is refused."""

import re
from pathlib import Path

import pytest

from jobworker.server.errors import InvalidRequestError
from jobworker.server.logs import logquery
from jobworker.server.logs.logquery import Cursor
from jobworker.server.model import LogStream, OutputMode
from jobworker.server.slices import Slices
from tests.logs.conftest import Following
from tests.logs.livebatch import LiveBatch


async def test_a_cursor_goes_on_with_no_byte_twice_and_none_missing(tmp_path: Path, follow: Following) -> None:
    batch = LiveBatch(tmp_path, 2)
    batch.start(0)
    batch.write(0, b"0123456789")
    batch.run(1, b"other")
    for offset in (0, 4, 10):
        starts = await logquery.starts(batch, [Cursor(0, None, offset)], Slices())
        follower = await follow(batch, starts=starts)
        await follower.until_data(0, b"0123456789"[offset:])
        await follower.until_data(1, b"other")
    batch.write(0, b"!")
    await follower.until_data(0, b"!")
    assert follower.pieces[-1].offset == 10


async def test_a_cursor_at_the_very_end_of_a_finished_log_gets_the_end_alone(tmp_path: Path, follow: Following) -> None:
    batch = LiveBatch(tmp_path, 1)
    batch.run(0, b"abc")
    follower = await follow(batch, starts=await logquery.starts(batch, [Cursor(0, None, 3)], Slices()))
    await follower.over()
    assert [piece.kind for piece in follower.pieces] == ["end"]


@pytest.mark.parametrize(
    ("cursor", "field"),
    [
        (Cursor(0, None, 4), "cursors[0].offset"),
        (Cursor(1, None, 3), "cursors[0].offset"),
        (Cursor(2, None, 1), "cursors[0].offset"),
        (Cursor(3, None, 0), "cursors[0].job_index"),
        (Cursor(0, LogStream.STDERR, 0), "cursors[0].stream"),
    ],
)
async def test_a_cursor_to_a_place_that_is_not_there_is_refused_by_name(
    tmp_path: Path, cursor: Cursor, field: str
) -> None:
    batch = LiveBatch(tmp_path, 3)
    batch.run(0, b"abc")
    batch.start(1)
    batch.write(1, b"ab")
    with pytest.raises(InvalidRequestError, match=re.escape(field)) as refused:
        await logquery.starts(batch, [cursor], Slices())
    assert [violation.field for violation in refused.value.violations] == [field]


async def test_two_cursors_for_one_log_are_refused(tmp_path: Path) -> None:
    batch = LiveBatch(tmp_path, 1, output=OutputMode.SEPARATE)
    batch.start(0)
    both = [Cursor(0, None, 0), Cursor(0, LogStream.STDERR, 0)]
    assert set(await logquery.starts(batch, both, Slices())) == {
        logquery.log_key(0, LogStream.STDOUT),
        logquery.log_key(0, LogStream.STDERR),
    }
    with pytest.raises(InvalidRequestError, match=r"cursors\[2\]"):
        await logquery.starts(batch, [*both, Cursor(0, LogStream.STDOUT, 0)], Slices())


async def test_a_job_that_the_batch_does_not_have_is_refused_by_name(tmp_path: Path) -> None:
    batch = LiveBatch(tmp_path, 3)
    assert list(await logquery.selected(batch, [2, 0, 2], Slices())) == [0, 2]
    with pytest.raises(InvalidRequestError, match=r"job_index\[1\]"):
        await logquery.selected(batch, [0, 3], Slices())


@pytest.mark.parametrize(
    ("log", "lines", "tail"),
    [
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc", 2, b"b\nc"),
        (b"a\nb\nc\n", 3, b"a\nb\nc\n"),
        (b"a\nb\nc\n", 9, b"a\nb\nc\n"),
        (b"\n\n\n", 1, b"\n"),
        (b"", 1, b""),
        (b"x" * 200_000 + b"\n" + b"y" * 100_000, 1, b"y" * 100_000),
        (b"x" * 65_535 + b"\n" + b"y" * 65_535 + b"\n", 1, b"y" * 65_535 + b"\n"),
    ],
)
async def test_the_last_lines_of_a_log_and_then_what_follows(
    tmp_path: Path, follow: Following, log: bytes, lines: int, tail: bytes
) -> None:
    batch = LiveBatch(tmp_path, 1)
    batch.start(0)
    batch.write(0, log)
    follower = await follow(batch, tail_lines=lines)
    await follower.until_data(0, tail)
    batch.write(0, b"more\n")
    await follower.until_data(0, tail + b"more\n")
    batch.end(0)
    later = await follow(batch, tail_lines=1, tail_bytes=3)
    await later.over()
    assert later.data(0) == b"re\n"


async def test_a_tail_is_of_what_there_was_when_following_began(tmp_path: Path, follow: Following) -> None:
    batch = LiveBatch(tmp_path, 3)
    batch.run(0, b"finished")
    batch.start(1)
    batch.write(1, b"running")
    follower = await follow(batch, tail_bytes=3)
    batch.write(1, b", and on")
    batch.run(2, b"started later")
    await follower.until_data(1, b"ing, and on")
    await follower.until_data(0, b"hed")
    await follower.until_data(2, b"started later")


async def test_a_cursor_wins_over_a_tail(tmp_path: Path, follow: Following) -> None:
    batch = LiveBatch(tmp_path, 1)
    batch.run(0, b"0123456789")
    follower = await follow(batch, tail_bytes=1, starts={logquery.log_key(0, LogStream.MERGED): 2})
    await follower.over()
    assert follower.data(0) == b"23456789"


async def test_what_there_is_now_has_ends_for_finished_logs_alone(tmp_path: Path, follow: Following) -> None:
    batch = LiveBatch(tmp_path, 3)
    batch.run(0, b"finished")
    batch.start(1)
    batch.write(1, b"so far")
    follower = await follow(batch, follow=False)
    await follower.over()
    assert (follower.data(0), follower.data(1)) == (b"finished", b"so far")
    assert follower.ended() == [0]


async def test_what_there_is_now_includes_a_job_whose_start_is_not_told_yet(tmp_path: Path, follow: Following) -> None:
    batch = LiveBatch(tmp_path, 2)
    batch.handed.add(0)
    batch.write(0, b"quick to print")
    follower = await follow(batch, follow=False)
    await follower.over()
    assert (follower.data(0), follower.data(1)) == (b"quick to print", b"")
    assert follower.ended() == []
