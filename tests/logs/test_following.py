"""A job or a batch, followed while it runs."""

import asyncio
import random
from pathlib import Path

import pytest

from jobworker.server.model import EndReason, JobState, LogStream, OutputMode
from tests.logs.conftest import Following
from tests.logs.livebatch import LiveBatch

EVERY_BYTE = bytes(range(256))


async def test_what_a_job_prints_arrives_while_it_runs_and_the_end_when_it_is_final(
    tmp_path: Path, follow: Following
) -> None:
    batch = LiveBatch(tmp_path, 1)
    batch.start(0)
    follower = await follow(batch)
    batch.write(0, b"one\n")
    await follower.until_data(0, b"one\n")
    batch.write(0, EVERY_BYTE + b"\nno newline")
    await follower.until_data(0, b"one\n" + EVERY_BYTE + b"\nno newline")
    assert follower.ended() == []
    batch.end(0, exit_code=3)
    await follower.over()
    assert follower.pieces[-1].offset == 4 + 256 + 11
    assert follower.pieces[-1].end is not None
    assert follower.pieces[-1].end.exit_code == 3


async def test_a_batch_is_one_stream_with_jobs_that_start_later_and_jobs_that_never_do(
    tmp_path: Path, follow: Following
) -> None:
    batch = LiveBatch(tmp_path, 4)
    follower = await follow(batch)
    batch.run(1, b"b")
    await follower.until_data(1, b"b")
    batch.start(0)
    batch.write(0, b"a")
    await follower.until_data(0, b"a")
    batch.fail_to_start(2)
    batch.skip(3)
    batch.end(0)
    await follower.over()
    assert sorted(follower.ended()) == [0, 1, 2, 3]
    ends = {piece.index: piece for piece in follower.pieces if piece.kind == "end"}
    assert (ends[3].offset, ends[2].offset) == (0, 0)
    assert ends[3].end is not None
    assert ends[3].end.state is JobState.SKIPPED
    assert ends[2].end is not None
    assert ends[2].end.reason is EndReason.SPAWN_FAILED


async def test_separate_outputs_are_two_logs_with_an_end_each(tmp_path: Path, follow: Following) -> None:
    batch = LiveBatch(tmp_path, 1, output=OutputMode.SEPARATE)
    batch.start(0)
    follower = await follow(batch)
    batch.write(0, b"out", LogStream.STDOUT)
    batch.write(0, b"error", LogStream.STDERR)
    batch.end(0)
    await follower.over()
    assert follower.data(0, LogStream.STDOUT) == b"out"
    assert follower.data(0, LogStream.STDERR) == b"error"
    assert {(p.stream, p.offset) for p in follower.pieces if p.kind == "end"} == {
        (LogStream.STDOUT, 3),
        (LogStream.STDERR, 5),
    }


async def test_only_the_jobs_asked_for_are_followed(tmp_path: Path, follow: Following) -> None:
    batch = LiveBatch(tmp_path, 5)
    follower = await follow(batch, indexes=[1, 3])
    for index in range(4):
        batch.run(index, b"%d" % index)
    await follower.over()
    assert sorted(follower.ended()) == [1, 3]
    assert {piece.index for piece in follower.pieces} == {1, 3}


async def test_every_follower_of_a_busy_batch_gets_every_byte_in_order(tmp_path: Path, follow: Following) -> None:
    dice = random.Random(4)
    jobs, at_a_time = 60, 7
    batch = LiveBatch(tmp_path, jobs)
    printed = [b""] * jobs
    waiting, running = list(range(jobs)), list[int]()
    followers = [await follow(batch)]
    while waiting or running:
        if waiting and len(running) < at_a_time:
            running.append(waiting.pop(0))
            batch.start(running[-1])
        index = dice.choice(running)
        data = dice.randbytes(dice.choice([0, 1, 100, 70_000, 300_000]))
        batch.write(index, data)
        printed[index] += data
        if dice.random() < 0.2:
            running.remove(index)
            batch.end(index)
        if dice.random() < 0.5:
            await asyncio.sleep(0)
        if dice.random() < 0.05:
            followers.append(await follow(batch))
    followers.append(await follow(batch))
    for follower in followers:
        await follower.over()
        assert sorted(follower.ended()) == list(range(jobs))
        for index in range(jobs):
            assert follower.data(index) == printed[index]
    assert not batch.watchers


async def test_a_flood_does_not_keep_the_other_jobs_waiting(tmp_path: Path, follow: Following) -> None:
    batch = LiveBatch(tmp_path, 2)
    batch.start(0)
    batch.start(1)
    batch.write(0, bytes(50 << 20))
    batch.write(1, b"quiet")
    follower = await follow(batch)
    await follower.until_data(1, b"quiet")
    assert [piece.index for piece in follower.pieces].index(1) < 3


async def test_a_follower_that_goes_away_leaves_nothing_behind(tmp_path: Path, follow: Following) -> None:
    batch = LiveBatch(tmp_path, 3)
    batch.start(0)
    batch.write(0, b"x")
    follower = await follow(batch)
    stays = await follow(batch)
    await follower.until_data(0, b"x")
    await stays.until_data(0, b"x")
    assert len(follow.files) == 1
    assert follower.task is not None
    follower.task.cancel()
    await asyncio.wait([follower.task])
    assert len(batch.watchers) == 1
    batch.write(0, b"y")
    await stays.until_data(0, b"xy")


async def test_followers_wake_although_the_kernel_dropped_events(tmp_path: Path, follow: Following) -> None:
    with open("/proc/sys/fs/inotify/max_queued_events") as file:
        queue = int(file.read())
    batch = LiveBatch(tmp_path, 3)
    for index in range(3):
        batch.start(index)
    follower = await follow(batch)
    batch.write(2, b"1")
    await follower.until_data(2, b"1")
    # Alternating, so that the kernel cannot merge equal events; without an await nobody reads them.
    with (
        open(batch.log_path(0, LogStream.MERGED), "ab", 0) as a,
        open(batch.log_path(1, LogStream.MERGED), "ab", 0) as b,
    ):
        for _ in range(queue // 2 + 10):
            a.write(b"a")
            b.write(b"b")
    batch.write(2, b"2")
    await follower.until_data(2, b"12")


@pytest.mark.parametrize("started", [False, True])
async def test_an_end_just_before_following_begins_is_not_missed(
    tmp_path: Path, follow: Following, started: bool
) -> None:
    batch = LiveBatch(tmp_path, 2)
    if started:
        batch.start(0)
    follower = await follow(batch, indexes=[0])
    if not started:
        batch.start(0)
    batch.end(0)
    await follower.over()
    assert follower.ended() == [0]
