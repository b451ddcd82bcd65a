"""The messages between server and executor, and their transport. Both sides import this file; it knows neither of them:
no jobs, no event loop, no clock.

Transport: one SOCK_SEQPACKET unix socket. Each message is one JSON object, `m` says which, with descriptors by
SCM_RIGHTS. A large one travels in a sealed memfd: the datagram is `{"m":"memfd"}`, descriptor 0 holds the message, and
the message's own descriptors follow. `Connection` hides that.

    connection = Connection(sock)                 # makes the socket non-blocking; the caller keeps it and closes it
    connection.send(message, fds) -> bool         # False: not now. Wait for writability, or, if `connection.crowded`,
                                                  # CROWDED_RETRY_SECONDS (too many descriptors are in flight). The
                                                  # caller keeps its descriptors and closes them once True came back.
    connection.receive() -> (message, fds) | None # None: nothing there. The descriptors are the caller's to close.
    raises ProtocolError                          # the message is lost, what could be read of it is `error.message`
    raises DescriptorsLostError                   # some of its descriptors are; `error.fds` are the caller's to close
    raises EOFError                               # the peer closed, and everything it had sent has been received
    raises OSError                                # from send: the peer is gone (BrokenPipeError, ConnectionResetError);
                                                  # from receive: nothing was received, the kernel is short of something

server -> executor
    attach   v, session, features, lock (true: the descriptor is to be held for life, see connector.py)
    start    epoch, orders: [Order]; descriptors, per order: stdin if it says so, then its log, or two: stdout, stderr
    stop     ids, reason ("cancelled", "interrupted"), grace (seconds or null: that of the order)
    ack      ids: these ends are recorded, forget them
    flags    epoch; descriptor: a file, in which the orders that follow have a byte each (to an executor with the
             feature "flags", after its hello; startflags.py)
    over     batches: no job of these starts any more (to an executor with the feature "work")
    batches  ids: these alone are unfinished, after an attach (the same)
executor -> server
    hello    v, epoch, session (null: of nobody, or orders did not arrive: send attach), pid, isolation,
             isolation_detail, tree, features, since, stopping, key (of one that came through a path, connector.py),
             short (as below, or null), uids ([first, last]: each order says as which of these user ids it runs; left
             out where all run as one)
    snapshot waiting: [id], running: [Started], ended: [End], last: bool
    started  jobs: [Started]
    ended    jobs: [End]
    stopping
    error    detail
    short    what ("processes", "memory", "descriptors", "disk"), since, over (both Unix nanoseconds; null: not yet);
             orders wait for it (to a server with the feature "short")
A session begins with the server's `attach`; the executor answers with a `hello` of the same session, one or more
snapshots, and goes on with started and ended. Everything before that hello belongs to an earlier server. An executor
that has just started sends a hello without a session. Orders that name another epoch are dropped. A job that ends
before its start was told has no start told: its end holds that as well.
"""

import array
import errno
import fcntl
import json
import os
import socket
from typing import Any, Dict, List, Optional, Sequence, Tuple, TypedDict, Union

VERSION = 1
FEATURES = ["memfd", "work", "short", "flags", "log_policy"]

# A datagram must fit SO_SNDBUF (212,992 by default, and the kernel's bookkeeping counts too): unix(7), EMSGSIZE.
INLINE_BYTES = 60_000
# SCM_MAX_FD is 253 (net/scm.h); the rest is for the memfd.
DESCRIPTORS = 250
MEMFD_BYTES = 256 << 20
CROWDED_RETRY_SECONDS = 0.02
# What this side or the kernel lacks for a while. ETOOMANYREFS: too many descriptors are in flight (unix(7)).
SHORT_OF = (errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC)

# What an Order wants done with output beyond its log_bytes. Executors without the feature "log_policy" end the job.
END_JOB = "end"
TRUNCATE_TAIL = "truncate_tail"
TRUNCATE_HEAD = "truncate_head"

# The reasons of an End, as it spells them.
EXITED = "exited"
SIGNALLED = "signalled"
SPAWN_FAILED = "spawn failed"
TIMEOUT = "timeout"
CANCELLED = "cancelled"
LOG_LIMIT = "log limit"
MEMORY = "memory"
INTERRUPTED = "interrupted"
DISK_FULL = "disk full"
PROCESSES = "processes"

Message = Dict[str, Any]


class OrderLimits(TypedDict, total=False):
    """setrlimit(2) for one job; only those that are set."""

    memory_bytes: int  # RLIMIT_AS
    cpu_seconds: int
    open_files: int
    processes: int
    file_size_bytes: int


class OrderExtra(TypedDict, total=False):
    """What may be left out."""

    flag: int  # which byte of the file of `flags` is set when it is about to be started
    log_policy: str  # END_JOB where it is not said
    uid: int  # whom it runs as, of the `uids` of the executor's hello


class Order(OrderExtra):
    """A job as told to an executor."""

    id: str  # "<correlation id>/<index>"; the executor sets JOBWORKER_CORRELATION_ID and JOBWORKER_JOB_INDEX from it
    slots: int  # it waits here while so many jobs of its batch run, or are about to
    argv: List[str]
    env: Dict[str, str]  # on top of the documented minimum
    cwd: str  # absolute, or "": the batch's work folder; without one the home folder, or "/" where there is none
    stdin: bool
    logs: int  # 1, or 2: stdout and stderr apart
    timeout: Optional[float]  # seconds
    grace: float  # seconds between SIGTERM and SIGKILL
    linger: float  # seconds that the output may stay open after the first process ended
    log_bytes: Optional[int]  # of all logs together; with TRUNCATE_HEAD an equal part for each
    limits: OrderLimits


class Started(TypedDict):
    """A job runs. `started` is Unix nanoseconds; `pid` is in the executor's own pid namespace."""

    id: str
    pid: int
    started: int


class EndUsage(TypedDict):
    """What wait4(2) told of the first process and the children it waited for."""

    user_us: int
    system_us: int
    peak_memory_bytes: Optional[int]  # null: not above the executor's own, so unknown
    read_bytes: int
    written_bytes: int
    voluntary: int
    involuntary: int


class EndExtra(TypedDict, total=False):
    """What executors of the first release do not say. The last two are left out where they are all 0."""

    spawn_us: int  # what starting its first process took, microseconds
    over: int  # bytes that were printed above the limit, and thrown away
    dropped_head: List[int]  # per log: of the bytes written the first so many were taken out again (a hole)
    dropped_tail: List[int]  # per log: so many came after those written, and were thrown away; `over` is their sum


class End(EndExtra):
    """A job is over, and nothing of it runs."""

    id: str
    reason: str
    detail: str
    code: Optional[int]  # exit code of the first process
    signal: Optional[int]  # or what killed it; both null: it was never started
    started: Optional[int]  # Unix nanoseconds
    ended: int
    usage: Optional[EndUsage]
    logs: List[int]  # bytes written, per log
    lost: int  # bytes that were printed and could not be written


class ProtocolError(Exception):
    """A message that cannot be used; its descriptors are closed. `message` is what could be read of it."""

    def __init__(self, detail: str, message: Optional[Message] = None) -> None:
        super().__init__(detail)
        self.message = message


class DescriptorsLostError(ProtocolError):
    """A receiver without room for all descriptors of a message got `fds`, the first of them. Without a `message`, the
    memfd that held it was lost."""

    def __init__(self, message: Optional[Message], fds: List[int]) -> None:
        super().__init__("descriptors were lost on the way (out of file descriptors?)", message)
        self.fds = fds


class Connection:
    """One end of the socket: whole messages in and out, nothing kept between calls."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._buffer = bytearray(1 << 16)
        self._ancillary = socket.CMSG_SPACE(253 * _INT)
        self.crowded = False

    def fileno(self) -> int:
        """For select and its kin."""
        return self._socket.fileno()

    def send(self, message: Message, fds: Sequence[int] = ()) -> bool:
        """Sends a message with at most DESCRIPTORS descriptors; False: not now, nothing of it was sent."""
        data = encode(message)
        if len(data) <= INLINE_BYTES:
            return self._send(data, fds)
        try:
            memfd = _sealed(data)
        except OSError as error:
            if error.errno not in SHORT_OF:
                raise
            self.crowded = True
            return False
        try:
            return self._send(_MEMFD, [memfd, *fds])
        finally:
            os.close(memfd)

    def receive(self, most: int = DESCRIPTORS + 1) -> Optional[Tuple[Message, List[int]]]:
        """The next message and its descriptors (close-on-exec); None: nothing there. `most`: so many descriptors are
        taken at the most, the one of a memfd among them."""
        room = self._ancillary if most > DESCRIPTORS else socket.CMSG_LEN(most * _INT)
        while True:
            try:
                size, ancillary, flags, _ = self._socket.recvmsg_into([self._buffer], room, _CLOEXEC)
                break
            except BlockingIOError:
                return None
            except ConnectionResetError:
                # The peer closed with our messages unread. That is told once; what it had sent before is still to come.
                continue
        if size == 0:
            raise EOFError("the peer closed the connection")
        fds = _descriptors(ancillary) if ancillary else []
        try:
            return self._message(size, fds, flags)
        except DescriptorsLostError:
            raise
        except BaseException:
            close_all(fds)
            raise

    def _send(self, data: bytes, fds: Sequence[int]) -> bool:
        self.crowded = False
        try:
            if fds:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                self._socket.sendmsg([data], rights, _NOSIGNAL)
            else:
                self._socket.send(data, _NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in SHORT_OF:
                raise
            self.crowded = True
            return False
        return True

    def _message(self, size: int, fds: List[int], flags: int) -> Tuple[Message, List[int]]:
        if flags & _TRUNC:
            raise ProtocolError("a datagram was too long and lost its end")
        message = decode(self._buffer[:size])
        if message.get("m") == "memfd":
            if not fds:
                if flags & _CTRUNC:
                    raise DescriptorsLostError(None, fds)
                raise ProtocolError("a memfd message came without its memfd")
            message = decode(_unsealed(fds[0]))
            os.close(fds.pop(0))
        if flags & _CTRUNC:
            # unix(7): a receiver out of descriptors loses them, and this flag is the only sign.
            raise DescriptorsLostError(message, fds)
        return message, fds


def encode(message: Message) -> bytes:
    """Compact JSON. A lone surrogate, which UTF-8 lacks, becomes the JSON escape of itself."""
    return _encode(message).encode("utf-8", "backslashreplace")


def decode(data: Union[bytes, bytearray]) -> Message:
    """The reverse. Raises ProtocolError."""
    try:
        text = data.decode()
        message, end = _raw_decode(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a message is not JSON: {error}") from error
    if end != len(text):
        raise ProtocolError("a message goes on after its JSON")
    if not isinstance(message, dict):
        raise ProtocolError("a message is not a JSON object")
    return message


def close_all(fds: Sequence[int]) -> None:
    """Closes each descriptor. Past an error as well: it is closed then (close(2)), and tells of other things."""
    for fd in fds:
        try:
            os.close(fd)
        except OSError as error:
            if error.errno == errno.EBADF:
                raise  # somebody else's by now


# Plain numbers: the enums of the socket module take microseconds to combine.
_CLOEXEC, _TRUNC, _CTRUNC, _NOSIGNAL = (
    int(flag) for flag in (socket.MSG_CMSG_CLOEXEC, socket.MSG_TRUNC, socket.MSG_CTRUNC, socket.MSG_NOSIGNAL)
)
_INT = array.array("i").itemsize
_MEMFD = b'{"m":"memfd"}'
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_raw_decode = json.JSONDecoder().raw_decode
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def _descriptors(ancillary: List[Tuple[int, int, bytes]]) -> List[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _INT])
    return fds.tolist()


def _sealed(data: bytes) -> int:
    memfd = os.memfd_create("message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(memfd, view) :]
        fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(memfd)
        raise
    return memfd


def _unsealed(memfd: int) -> bytes:
    try:
        seals = fcntl.fcntl(memfd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise ProtocolError("the descriptor of a memfd message is not a memfd") from error
    if seals & _SEALS != _SEALS:
        # Its sender could still change it under the reader's eyes, or truncate it.
        raise ProtocolError("the memfd of a message is not sealed")
    size = os.fstat(memfd).st_size
    if size > MEMFD_BYTES:
        raise ProtocolError(f"a message of {size} bytes is too large")
    data = bytearray()
    while len(data) < size:
        try:
            data += os.pread(memfd, size - len(data), len(data))
        except OSError as error:
            raise ProtocolError(f"the memfd of a message cannot be read: {error.strerror}") from error
    return bytes(data)
