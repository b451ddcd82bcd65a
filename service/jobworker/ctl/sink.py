"""Where the bytes of logs go: to our own outputs, exact but for a terminal, as they are or line by line with each job's
index before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, TextIO

from jobworker.ctl.options import OnlyStream
from jobworker.ctl.visible import VisibleBytes
from jobworker.v1.job_pb2 import LOG_STREAM_STDERR

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobworker.v1.query_pb2 import LogChunk

_LINE_BYTES = 64 << 10  # of an unfinished line that is held back, in each log
_GAPS_TOLD = 3  # of each log, one by one; who follows a flood has hundreds


class LogSink:
    """Takes the pieces of logs. STDERR of jobs with separate output goes to `stderr`, everything else to `stdout`."""

    def __init__(
        self,
        *,
        stdout: TextIO,
        stderr: TextIO,
        prefix: bool,
        raw: bool = False,
        only: OnlyStream = OnlyStream.ALL,
        note: Callable[[str], None],
    ) -> None:
        """`raw`: a terminal gets the bytes as they are, too. `note` is told of bytes that are gone."""
        self._outputs = (stdout.buffer, stderr.buffer)
        self._prefixers = tuple(_Prefixer(o) for o in self._outputs) if prefix else ()
        self._terminals = tuple(None if raw or not o.isatty() else o.encoding for o in (stdout, stderr))
        self._visible: dict[tuple[int, int], VisibleBytes] = {}  # by job and stream, of those at a terminal
        self._only = only
        self._note = note
        self._gaps: dict[tuple[int, int], tuple[int, int]] = {}  # by job and stream: how many, and bytes unreported

    def take(self, chunk: LogChunk) -> None:
        """One piece; it is out when this returns, but for a begun line with a prefix, or a begun character."""
        log = (chunk.job_index, chunk.stream)
        if self._only is not OnlyStream.ALL and _is_stderr(log) != (self._only is OnlyStream.STDERR):
            return
        payload = chunk.WhichOneof("payload")
        self._put(log, chunk.data, last=payload != "data")
        if payload == "gap":
            self._gap(chunk)
        elif payload == "end":
            self._end(chunk)

    def close(self) -> None:
        """Writes what is held back of lines and characters that never ended."""
        for log in list(self._visible):
            self._put(log, b"", last=True)
        for log in list(self._gaps):
            self._sum_gaps(log)
        for prefixer in self._prefixers:
            prefixer.close()

    def _put(self, log: tuple[int, int], data: bytes, *, last: bool) -> None:
        """`last`: what comes next does not go on from here."""
        job, is_stderr = log[0], _is_stderr(log)
        encoding = self._terminals[is_stderr]
        if encoding is not None:
            visible = self._visible.setdefault(log, VisibleBytes(encoding))
            data = visible.feed(data, last=last)
            if last:
                del self._visible[log]
        if self._prefixers:
            self._prefixers[is_stderr].write(job, data)
        else:
            self._outputs[is_stderr].write(data)
        self._outputs[is_stderr].flush()

    def _end(self, chunk: LogChunk) -> None:
        log = (chunk.job_index, chunk.stream)
        if self._prefixers:
            self._prefixers[_is_stderr(log)].end(chunk.job_index)
        self._sum_gaps(log)
        if chunk.end.dropped_bytes:
            end = chunk.end.total_bytes + chunk.end.dropped_bytes
            self._note(
                f"job {chunk.job_index}: bytes {chunk.end.total_bytes} to {end} are gone: "
                "the job printed more than its log may have"
            )

    def _gap(self, chunk: LogChunk) -> None:
        log = (chunk.job_index, chunk.stream)
        count, unreported = self._gaps.get(log, (0, 0))
        if count < _GAPS_TOLD:
            words = f"bytes {chunk.offset} to {chunk.offset + chunk.gap.length} are gone: {chunk.gap.reason}"
            self._note(f"job {chunk.job_index}: {words}")
        else:
            unreported += chunk.gap.length
        self._gaps[log] = count + 1, unreported

    def _sum_gaps(self, log: tuple[int, int]) -> None:
        count, unreported = self._gaps.pop(log, (0, 0))
        if unreported:
            self._note(f"job {log[0]}: {unreported} more bytes are gone, in {count - _GAPS_TOLD} places")


def _is_stderr(log: tuple[int, int]) -> bool:
    return log[1] == LOG_STREAM_STDERR


class _Prefixer:
    """Whole lines of several jobs on one output."""

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._begun: dict[int, bytes] = {}  # jobs with an unfinished line: what is held back of it
        self._open: int | None = None  # the job whose unfinished line is the last on the output

    def write(self, job: int, data: bytes) -> None:
        *lines, rest = (self._begun.pop(job, b"") + data).split(b"\n")
        for line in lines:
            self._put(job, line + b"\n")
        if len(rest) > _LINE_BYTES:
            self._put(job, rest)
        elif rest:
            self._begun[job] = rest

    def end(self, job: int) -> None:
        rest = self._begun.pop(job, b"")
        if rest:
            self._put(job, rest + b"\n")
        elif self._open == job:
            self._put(job, b"\n")
        self._output.flush()

    def close(self) -> None:
        for job in list(self._begun):
            self.end(job)

    def _put(self, job: int, piece: bytes) -> None:
        """Part of a line, or its rest: another job's open line is ended first, the job's own goes on."""
        if self._open != job:
            if self._open is not None:
                self._output.write(b"\n")
            self._output.write(b"[%d] " % job)
        self._output.write(piece)
        self._open = None if piece.endswith(b"\n") else job
