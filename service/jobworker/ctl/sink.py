"""Where the bytes of logs go: to our own outputs, exact, or line by line with each job's index before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from jobworker.ctl.options import OnlyStream
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
        stdout: BinaryIO,
        stderr: BinaryIO,
        prefix: bool,
        only: OnlyStream = OnlyStream.ALL,
        note: Callable[[str], None],
    ) -> None:
        """`note` is told of bytes that are gone."""
        self._outputs = (stdout, stderr)
        self._prefixers = {id(o): _Prefixer(o) for o in self._outputs} if prefix else {}
        self._only = only
        self._note = note
        self._gaps: dict[tuple[int, int], tuple[int, int]] = {}  # by job and stream: how many, and bytes untold

    def take(self, chunk: LogChunk) -> None:
        """One piece; it is out when this returns, but for a begun line with a prefix."""
        is_stderr = chunk.stream == LOG_STREAM_STDERR
        if self._only is not OnlyStream.ALL and is_stderr != (self._only is OnlyStream.STDERR):
            return
        if chunk.HasField("gap"):
            self._gap(chunk)
            return
        if chunk.HasField("end"):
            self._sum_gaps((chunk.job_index, chunk.stream))
        if chunk.HasField("end") and chunk.end.dropped_bytes:
            end = chunk.end.total_bytes + chunk.end.dropped_bytes
            self._note(
                f"job {chunk.job_index}: bytes {chunk.end.total_bytes} to {end} are gone: "
                "the job printed more than its log may have"
            )
        output = self._outputs[is_stderr]
        prefixer = self._prefixers.get(id(output))
        if prefixer is None:
            output.write(chunk.data)
        elif chunk.HasField("end"):
            prefixer.end(chunk.job_index)
        else:
            prefixer.write(chunk.job_index, chunk.data)
        output.flush()

    def close(self) -> None:
        """Writes what is held back of lines that never ended."""
        for log in list(self._gaps):
            self._sum_gaps(log)
        for prefixer in self._prefixers.values():
            prefixer.close()

    def _gap(self, chunk: LogChunk) -> None:
        log = (chunk.job_index, chunk.stream)
        count, untold = self._gaps.get(log, (0, 0))
        if count < _GAPS_TOLD:
            words = f"bytes {chunk.offset} to {chunk.offset + chunk.gap.length} are gone: {chunk.gap.reason}"
            self._note(f"job {chunk.job_index}: {words}")
        else:
            untold += chunk.gap.length
        self._gaps[log] = count + 1, untold

    def _sum_gaps(self, log: tuple[int, int]) -> None:
        count, untold = self._gaps.pop(log, (0, 0))
        if untold:
            self._note(f"job {log[0]}: {untold} more bytes are gone, in {count - _GAPS_TOLD} places")


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

    def close(self) -> None:
        for job in list(self._begun):
            self.end(job)
        self._output.flush()

    def _put(self, job: int, piece: bytes) -> None:
        """Part of a line, or its rest: another job's open line is ended first, the job's own goes on."""
        if self._open != job:
            if self._open is not None:
                self._output.write(b"\n")
            self._output.write(b"[%d] " % job)
        self._output.write(piece)
        self._open = None if piece.endswith(b"\n") else job
