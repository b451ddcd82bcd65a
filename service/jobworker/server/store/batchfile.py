"""`batch.jsonl`: a batch as accepted. A header line, a line per job, a closing line with a digest.

A file without its closing line was never acknowledged. Written once, never changed.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import threading
from array import array
from collections.abc import Callable
from typing import Any

from jobworker.server.errors import UNREADABLE, DamagedError
from jobworker.server.ids import CorrelationId
from jobworker.server.model import BatchHeader, BatchOptions, JobSpec, Limits, LogPolicy, OutputMode
from jobworker.server.store.disk import Disk
from jobworker.server.store.layout import BATCH

VERSION = 1
_encode: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_WRITE_BYTES = 1 << 18
# A batch that is larger is written to its own file before it is accepted; a smaller one goes through the commit log.
SMALL_BYTES = 1 << 16


def encode_spec(spec: JobSpec) -> bytes:  # noqa: C901 - a question for each field: a loop costs each job more
    """A job's line; what is at its default is left out."""
    line: dict[str, Any] = {}
    if spec.command:
        line["command"] = spec.command
    if spec.argv:
        line["argv"] = spec.argv
    if spec.env:
        line["env"] = spec.env
    if spec.cwd:
        line["cwd"] = spec.cwd
    if spec.stdin:
        line["stdin"] = base64.b64encode(spec.stdin).decode()
    if spec.timeout_seconds is not None:
        line["timeout"] = spec.timeout_seconds
    if spec.limits != _NO_LIMITS:
        line["limits"] = {k: v for k in Limits.__slots__ if (v := getattr(spec.limits, k)) is not None}
    if spec.output is not OutputMode.MERGED:
        line["output"] = spec.output
    if spec.name:
        line["name"] = spec.name
    if spec.log_policy is not None:
        line["log_policy"] = spec.log_policy
    return _encode(line).encode() + b"\n"


_NO_LIMITS = Limits()


def decode_spec(line: bytes) -> JobSpec:
    """The job of a line; unknown keys are a newer version's and are passed over."""
    d = json.loads(line)
    return JobSpec(
        command=d.get("command", ""),
        argv=tuple(d.get("argv", ())),
        env=d.get("env", {}),
        cwd=d.get("cwd", ""),
        stdin=base64.b64decode(d["stdin"]) if "stdin" in d else b"",
        timeout_seconds=d.get("timeout"),
        limits=Limits(**d["limits"]) if "limits" in d else _NO_LIMITS,
        output=OutputMode(d.get("output", OutputMode.MERGED)),
        name=d.get("name", ""),
        log_policy=LogPolicy(d["log_policy"]) if "log_policy" in d else None,
    )


class Digest:
    """What makes two submissions the same: options and jobs, not when they came."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add_options(self, options: BatchOptions) -> None:
        """The options as asked for, before the service's defaults."""
        said = [options.name, options.parallelism, options.fail_fast, sorted(options.labels.items())]
        self._hash.update(_encode(said).encode() + b"\n")

    def add_job(self, line: bytes) -> None:
        """A job's line."""
        self._hash.update(line)

    def hex(self) -> str:
        """64 digits."""
        return self._hash.hexdigest()


class BatchWriter:
    """Makes a new `batch.jsonl` line by line: in memory while it is small, else in its file. Memory stays at 8 bytes a
    job and 64 KiB."""

    def __init__(self, header: BatchHeader, digest: Digest, *, disk: Disk, create: Callable[[], int]) -> None:
        """`create` makes the file on the disk when it is needed, and gives its descriptor."""
        self.offsets = array("Q")
        self._digest = digest
        self._disk = disk
        self._create = create
        self._fd = -1
        self._buffer = bytearray(
            _encode(
                {
                    "v": VERSION,
                    "correlation_id": header.correlation_id,
                    "user": header.user,
                    "accepted_at": header.accepted_at,
                    "name": header.name,
                    "parallelism": header.parallelism,
                    "fail_fast": header.fail_fast,
                    "labels": header.labels,
                }
            ).encode()
            + b"\n"
        )
        self._flushed = 0

    def add(self, line: bytes) -> None:
        """Appends a job's line."""
        self.offsets.append(self._flushed + len(self._buffer))
        self._digest.add_job(line)
        self._buffer += line
        if len(self._buffer) >= (_WRITE_BYTES if self._fd >= 0 else SMALL_BYTES):
            self._flush()

    def finish(self) -> bytes:
        """Appends the closing line. Returns the whole content of a small batch, which has no file; else empty, and the
        file is to be synced."""
        self.offsets.append(self._flushed + len(self._buffer))
        self._buffer += _encode({"end": len(self.offsets) - 1, "sha256": self._digest.hex()}).encode() + b"\n"
        if self._fd < 0:
            return bytes(self._buffer)
        self._flush()
        return b""

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._flushed + len(self._buffer)

    @property
    def descriptor(self) -> int:
        """Of the file; of a batch that is not small."""
        return self._fd

    def close(self) -> None:
        """Gives the descriptor back; again is fine."""
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1

    def _flush(self) -> None:
        if self._fd < 0:
            self._fd = self._create()
        self._disk.write(self._fd, self._buffer, self._flushed)
        self._flushed += len(self._buffer)
        self._buffer = bytearray()


def last_line(path: str, begins: bytes, *, most_bytes: int) -> dict[str, Any] | None:
    """The last line of a file, if it is whole and begins so; it is at most so long."""
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - most_bytes))
        tail = file.read()
    line = tail.rstrip(b"\n").rpartition(b"\n")[2]
    if not tail.endswith(b"\n") or not line.startswith(begins):
        return None
    found: dict[str, Any] = json.loads(line)
    return found


class BatchReader:
    """Reads a whole `batch.jsonl`: the header at once, a job's line at a time by its index. Once `load` was called,
    `spec` may be by two threads at a time."""

    def __init__(self, folder: str, offsets: array[int] | None = None, *, content: bytes = b"") -> None:
        """`offsets` of the jobs' lines, where they are known; `content` of the file while it is not written."""
        self.content = content
        self._folder = folder
        self._offsets = offsets
        self._fd = -1
        self._closed = False
        self._lock = threading.Lock()

    def moved(self, folder: str) -> None:
        """The batch's folder lies elsewhere now."""
        self._folder = folder

    def header(self) -> BatchHeader:
        """The header.

        Raises:
            DamagedError: it cannot be read as one.
            OSError: the file cannot be read.
        """
        if self.content:
            line = self.content[: self.content.index(b"\n")]
        else:
            with open(self.path, "rb") as file:
                line = file.readline(1 << 20)
        try:
            d = json.loads(line)
            return BatchHeader(
                correlation_id=CorrelationId(d["correlation_id"]),
                user=d["user"],
                accepted_at=d["accepted_at"],
                name=d["name"],
                parallelism=d["parallelism"],
                fail_fast=d["fail_fast"],
                labels=d["labels"],
            )
        except UNREADABLE as e:
            raise DamagedError("the batch's header cannot be read", path=self.path) from e

    def closing(self) -> tuple[int, str] | None:
        """The count of jobs and the digest; None where the closing line is missing.

        Raises:
            DamagedError: it cannot be read.
        """
        try:
            if self.content:
                d = json.loads(self.content[self.content.rindex(b'{"end":') :])
            else:
                d = last_line(self.path, b'{"end":', most_bytes=256)
            return None if d is None else (int(d["end"]), str(d["sha256"]))
        except UNREADABLE as e:
            raise DamagedError("the batch's closing line cannot be read", path=self.path) from e

    def load(self) -> array[int]:
        """Finds where each job's line begins, if that is not known: a million take half a second. Any thread."""
        if self._offsets is None:
            self._offsets = self._scan()
        return self._offsets

    def spec(self, index: int) -> JobSpec:
        """The job of an index.

        Raises:
            DamagedError: its line cannot be read as a job.
        """
        offsets = self.load()
        begin, stop = offsets[index], offsets[index + 1]
        try:
            return decode_spec(self.content[begin:stop] or self._read(begin, stop - begin))
        except UNREADABLE as e:
            raise DamagedError(f"job {index} of the batch cannot be read", path=self.path) from e

    @property
    def path(self) -> str:
        """Where the file lies."""
        return f"{self._folder}/{BATCH}"

    def close(self) -> None:
        """Gives the descriptor back; later reads open the file each time."""
        with self._lock:
            self._closed = True
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _read(self, begin: int, length: int) -> bytes:
        with self._lock:
            fd = self._fd
            if fd < 0:
                fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                if not self._closed:
                    self._fd = fd
        try:
            return os.pread(fd, length, begin)
        finally:
            if fd != self._fd:
                os.close(fd)

    def _scan(self) -> array[int]:
        offsets = array("Q")
        at = 0
        with io.BytesIO(self.content) if self.content else open(self.path, "rb") as file:
            for line in file:
                offsets.append(at)
                at += len(line)
        del offsets[0]
        return offsets
