"""Fixtures: the process's open logs, and one follower's stream as a list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from jobworker.server.logs.logfile import LogFiles
from jobworker.server.logs.logquery import LogQuery
from jobworker.server.logs.merge import Merge
from jobworker.server.logs.watch import Watch
from jobworker.server.model import BatchView, JobEnd, LogStream
from jobworker.server.slices import Slices

DEADLINE_SECONDS = 30.0


@dataclass(frozen=True)
class Piece:
    """What a follower was sent."""

    kind: str
    index: int
    stream: LogStream
    offset: int
    data: bytes = b""
    length: int = 0
    end: JobEnd | None = None
    reason: str = ""


class Pieces:
    """An encoder that keeps everything."""

    def data(self, index: int, stream: LogStream, offset: int, view: memoryview) -> Piece:
        return Piece("data", index, stream, offset, bytes(view), len(view))

    def gap(self, index: int, stream: LogStream, offset: int, length: int, reason: str) -> Piece:
        return Piece("gap", index, stream, offset, length=length, reason=reason)

    def end(self, index: int, stream: LogStream, total_bytes: int, end: JobEnd) -> Piece:
        return Piece("end", index, stream, total_bytes, end=end)


@dataclass
class Follower:
    """Follows in a task of its own; what came is in `pieces`."""

    pieces: list[Piece] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def data(self, index: int, stream: LogStream | None = None) -> bytes:
        """Everything that came of a log; its pieces must join without a hole."""
        found = b""
        begin = None
        for piece in self.pieces:
            if piece.kind == "data" and piece.index == index and stream in (None, piece.stream):
                begin = piece.offset if begin is None else begin
                assert piece.offset == begin + len(found)
                found += piece.data
        return found

    def ended(self) -> list[int]:
        """The jobs whose log's end came, in that order."""
        return [piece.index for piece in self.pieces if piece.kind == "end"]

    async def until_data(self, index: int, data: bytes) -> None:
        """Waits until all of `data` came."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while self.data(index) != data:
                self.came.clear()
                await self.came.wait()

    async def over(self) -> None:
        """Waits for the stream to end by itself."""
        assert self.task is not None
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self.task


class Following:
    """Begins followers, and ends them."""

    def __init__(self, files: LogFiles) -> None:
        self.files = files
        self._followers: list[Follower] = []

    async def __call__(self, batch: BatchView, **query: object) -> Follower:
        """A follower that has subscribed already."""
        follower = Follower()
        begun = asyncio.Event()
        wanted = LogQuery(**{"indexes": range(batch.job_count), **query})  # type: ignore[arg-type]

        async def follow() -> None:
            async with Merge(batch=batch, query=wanted, files=self.files, encoder=Pieces()) as merge:
                begun.set()
                while (piece := await merge.next()) is not None:
                    follower.pieces.append(piece)
                    follower.came.set()

        follower.task = asyncio.create_task(follow())
        self._followers.append(follower)
        await asyncio.wait([follower.task, asyncio.create_task(begun.wait())], return_when=asyncio.FIRST_COMPLETED)
        return follower

    async def close(self) -> None:
        """Ends them all."""
        for follower in self._followers:
            assert follower.task is not None
            follower.task.cancel()
            await asyncio.wait([follower.task])


@pytest.fixture
async def files() -> AsyncIterator[LogFiles]:
    """The process's open logs; a test must leave none open."""
    watch = Watch(loop=asyncio.get_running_loop())
    slices = Slices()
    files = LogFiles(watch=watch, slices=slices)
    yield files
    assert len(files) == 0
    watch.close()
    files.close()
    slices.close()


@pytest.fixture
async def follow(files: LogFiles) -> AsyncIterator[Following]:
    """Begins followers; they end with the test."""
    following = Following(files)
    yield following
    await following.close()
