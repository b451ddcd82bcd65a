"""SearchJob: jobs one after another in index order, each with its log as text. See query.proto.

Does not know where its responses go, nor how fast.
"""

from __future__ import annotations

import codecs
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobworker.server.logs.logquery import LogQuery
from jobworker.server.logs.merge import Merge
from jobworker.server.model import JobState
from jobworker.server.rpc import convert, waiting
from jobworker.v1 import query_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from jobworker.server.logs.budget import Hold
    from jobworker.server.logs.logfile import LogFiles
    from jobworker.server.model import BatchView, JobEnd, JobView, LogStream

_PIECE_RESULT = JobState.RUNNING.name


@dataclass(frozen=True, slots=True)
class _Text:
    """Text, and where its bytes begin and end in the job's logs, one after another."""

    offset: int
    end: int
    text: str


class Search:
    """One search. `states`: none is every job; with some, nothing is waited for, each job is told as it is."""

    def __init__(
        self,
        *,
        batch: BatchView,
        indexes: Sequence[int],
        states: frozenset[JobState],
        follow: bool,
        with_log: bool,
        files: LogFiles,
        hold: Hold | None = None,
    ) -> None:
        self._batch = batch
        self._indexes = indexes
        self._states = states
        self._follow = follow and not states
        self._with_log = with_log
        self._files = files
        self._hold = hold
        self.holding = False  # text that a later response has

    async def responses(self) -> AsyncGenerator[query_pb2.SearchJobResponse]:
        """The jobs' messages, each as soon as there is something to tell."""
        async for index in self._files.slices.each(self._indexes):
            if self._states and self._batch.job_state(index) not in self._states:
                continue
            if self._follow:
                await waiting.until_started(self._batch, index)
            held = _Text(0, 0, "")  # the text of a final job is held back one step: it goes with the last message
            async with aclosing(self._texts(index)) as texts:
                async for text in texts:
                    self.holding = True
                    if held.text:
                        yield self._piece(index, held)
                    held = text
                    if self._follow and not self._batch.job_state(index).final:
                        self.holding = False
                        yield self._piece(index, held)
                        held = _Text(text.end, text.end, "")
            self.holding = False
            if self._follow:
                await waiting.until_ended(self._batch, index)
            job = self._batch.job(index)
            yield self._response(job, held, result=convert.words(job), last=True)

    async def _texts(self, index: int) -> AsyncGenerator[_Text]:
        """The logs of a job as text, one after another; none of it is empty."""
        if not self._with_log:
            return
        base = 0
        for stream in self._batch.job(index).spec.output.streams:
            decoding = _Decoding(base)
            wanted = LogQuery(indexes=[index], follow=self._follow, only=stream)
            async with Merge(
                batch=self._batch, query=wanted, files=self._files, encoder=decoding, hold=self._hold
            ) as merge:
                while (text := await merge.next()) is not None:
                    if text.text:
                        yield text
            rest = decoding.flush()
            if rest.text:
                yield rest
            base = decoding.end_offset

    def _piece(self, index: int, text: _Text) -> query_pb2.SearchJobResponse:
        return self._response(self._batch.job(index), text, result=_PIECE_RESULT)

    def _response(self, job: JobView, text: _Text, *, result: str, last: bool = False) -> query_pb2.SearchJobResponse:
        response = query_pb2.SearchJobResponse(
            correlation_id=self._batch.header.correlation_id,
            result=result,
            log_output=text.text,
            job=convert.job(self._batch, job),
            log_offset=text.offset,
            last=last,
        )
        if job.started_at is not None:
            response.executed_at.CopyFrom(convert.timestamp(job.started_at))
        return response


class _Decoding:
    """An encoder (logs/encoder.py): UTF-8 across messages, never splitting a character; what is none becomes U+FFFD."""

    def __init__(self, base: int) -> None:
        self._base = base
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._next = base  # the place after the last bytes taken
        self._kept = 0  # bytes of a character whose rest is still to come

    @property
    def end_offset(self) -> int:
        """The place after the whole log."""
        return self._next

    def data(self, index: int, stream: LogStream, offset: int, view: memoryview) -> _Text:  # noqa: ARG002
        return self._take(bytes(view), offset + len(view))

    def gap(self, index: int, stream: LogStream, offset: int, length: int, reason: str) -> _Text:  # noqa: ARG002
        text = self.flush()
        self._next = self._base + offset + length
        return text

    def end(self, index: int, stream: LogStream, total_bytes: int, end: JobEnd) -> _Text:  # noqa: ARG002
        return self.flush()

    def flush(self) -> _Text:
        """What is left of a character that never became whole."""
        return self._take(b"", self._next - self._base, final=True)

    def _take(self, data: bytes, end: int, *, final: bool = False) -> _Text:
        begin = self._next - self._kept
        text = self._decoder.decode(data, final=final)
        self._kept = len(self._decoder.getstate()[0])
        self._next = self._base + end
        return _Text(begin, self._next - self._kept, text)
