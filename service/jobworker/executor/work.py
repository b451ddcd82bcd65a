"""Work folders: one for each batch, made when its first job starts, where its jobs start and which is their HOME.

They lie in one folder that is the executor's alone, are removed when it starts, and when the server says that their
batch is over. What jobs made there can be of any depth, size and mode: it is renamed away at once, and removed by a
thread of its own. What batches share, /tmp, /dev/shm and System V objects, is cleared when no batch is left.
"""

import errno
import os
import threading
from collections import deque
from itertools import count, islice
from typing import Callable, Container, Deque, Iterable, Iterator, List, Optional, Set

from . import identity, libc, sharedmemory
from .identity import Identity
from .threads import or_die

# In the folder of all of it, which is not the jobs' to write: theirs are these two.
BATCHES = "batches"
TMP = "tmp"  # what is /tmp to jobs in a new root
_BATCHES_MODE, _OTHERS_BATCHES_MODE, _TMP_MODE = 0o700, 0o711, 0o1777
_TRASH = ".removed"
_ENTRIES_AT_ONCE = 10_000


class Work:
    """For the thread that starts jobs."""

    def __init__(
        self, root: str, *, tmp: Optional[str], owns_memory: bool, identities: Identity, say: Callable[[str], None]
    ) -> None:
        """`tmp`: the jobs' own folder for temporary files. `owns_memory`: nobody but jobs uses /dev/shm and the System
        V objects that are to be seen here."""
        self._batches = f"{root}/{BATCHES}"
        self._tmp = tmp
        self._owns_memory = owns_memory
        self._identities = identities
        self._mode = _BATCHES_MODE if identities.uids is None else _OTHERS_BATCHES_MODE
        self._say = say
        self._made: Set[str] = set()
        self._count = 0
        self._wake = threading.Event()
        self.thread_id: Optional[int] = None

    def begin(self) -> None:
        """Forgets what an executor before left, and starts the thread."""
        for name in _names(self._batches, self._mode):
            self._discard(self._batches, name)
        self._clear_shared()
        started = threading.Event()

        def run() -> None:
            self.thread_id = threading.get_native_id()
            if self._identities.uids is not None:
                libc.set_capabilities(identity.REMOVING, identity.REMOVING)  # of this thread
            started.set()
            or_die(self._remove_all)

        threading.Thread(target=run, name="removal", daemon=True).start()
        started.wait()
        self._wake.set()

    def folder(self, batch: str, uid: Optional[int] = None) -> str:
        """Where a batch's jobs start, which is that user's; None: the executor's own.

        Raises:
            OSError: it cannot be made.
        """
        path = f"{self._batches}/{batch}"
        if batch not in self._made:
            self._see_to_access()
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                pass
            if uid is not None:
                os.chown(path, uid, uid, follow_symlinks=False)
            self._made.add(batch)
        return path

    def over(self, batches: Iterable[str]) -> None:
        """No job of these starts any more. With the last one goes what batches share."""
        had = bool(self._made)
        self._see_to_access()
        for batch in batches:
            if batch in self._made:
                self._made.discard(batch)
                self._discard(self._batches, batch)
        if had and not self._made:
            self._clear_shared()

    def unfinished(self, batches: Container[str]) -> None:
        """The server knows of these alone."""
        self.over([batch for batch in self._made if batch not in batches])

    def _see_to_access(self) -> None:
        if not os.access(self._batches, os.W_OK | os.X_OK):
            _open_again(self._batches, self._mode)

    def _clear_shared(self) -> None:
        if self._tmp is not None:
            for name in _names(self._tmp, _TMP_MODE):
                self._discard(self._tmp, name)
        if self._owns_memory:
            sharedmemory.clear(self._identities)

    def _discard(self, folder: str, name: str) -> None:
        """Out of sight by one rename, where the folder is ours; the rest is the thread's."""
        trash = f"{folder}/{_TRASH}"
        if name == _TRASH:
            # What an executor before had not removed yet; or a job put it there.
            self._wake.set()
            return
        try:
            if not os.path.isdir(trash) or os.path.islink(trash):
                if os.path.lexists(trash):
                    os.unlink(trash)
                os.mkdir(trash, 0o700)
            self._count += 1
            if self._identities.uids is not None:
                _take_over(f"{folder}/{name}")
            os.rename(f"{folder}/{name}", f"{trash}/{os.getpid()}.{self._count}")
        except OSError as error:
            if folder == self._batches:
                self._say(f"{folder}/{name}: cannot be removed: {error.strerror}")
            # In /tmp can be mount points, and what is another's.
        self._wake.set()

    def _remove_all(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            for folder in (self._batches, self._tmp):
                if folder is None:
                    continue
                try:
                    empty(f"{folder}/{_TRASH}")
                except FileNotFoundError:
                    pass
                except OSError as error:
                    self._say(f"{folder}/{_TRASH}: cannot be emptied: {error.strerror}")


def _take_over(path: str) -> None:
    """A folder of another user's becomes ours: rename(2) into another folder takes leave to write in it."""
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:
        return
    except OSError as error:
        if error.errno == errno.ELOOP:
            return
        raise
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            os.chown(f"/proc/self/fd/{fd}", os.geteuid(), os.getegid())
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)


def _names(folder: str, mode: int) -> List[str]:
    try:
        return os.listdir(folder)
    except PermissionError:
        return _open_again(folder, mode)
    except OSError:
        return []


def _open_again(folder: str, mode: int) -> List[str]:
    """What is in a folder that a job has shut: it is theirs, as they are of this user."""
    try:
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.chmod(f"/proc/self/fd/{fd}", mode)
            return os.listdir(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
    except OSError:
        return []


def prepare(root: str, uid: int, gid: int, *, others: bool = False) -> None:
    """Makes the folder of it all, and in it those that are the jobs'. `others`: jobs run as other users than that one.

    Raises:
        OSError: one cannot be made, or is not a folder.
    """
    os.makedirs(root, exist_ok=True)
    for path, mode, is_jobs in (
        (root, 0o711, False),
        (f"{root}/{BATCHES}", _OTHERS_BATCHES_MODE if others else _BATCHES_MODE, True),
        (f"{root}/{TMP}", _TMP_MODE, True),
    ):
        try:
            os.mkdir(path)
        except FileExistsError:
            pass
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_uid != os.geteuid() and os.geteuid() != 0:
                continue  # a volume's, whose owner decides
            if is_jobs and os.geteuid() == 0:
                os.fchown(fd, uid, gid)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)


def empty(folder: str) -> None:
    """Removes all that is in a folder. Its folders are renamed into it, one after another, so that neither depth nor
    the length of a path matters. No link is followed. Others may add and remove meanwhile.

    Raises:
        OSError: something cannot be removed; the rest is.
    """
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    failed: List[OSError] = []
    serial = count()
    try:
        waiting = deque(os.listdir(top))
        while waiting:
            name = waiting.popleft()
            try:
                below = _open(name, top)
                if below is None:
                    os.unlink(name, dir_fd=top)
                    continue
                try:
                    _empty_one(below, top, waiting, serial)
                finally:
                    os.close(below)
                os.rmdir(name, dir_fd=top)
            except FileNotFoundError:
                continue
            except OSError as error:
                failed.append(error)
    finally:
        os.close(top)
    if failed:
        raise failed[0]


def _empty_one(below: int, top: int, waiting: Deque[str], serial: Iterator[int]) -> None:
    """Removes the files of a folder, and moves its folders to the top."""
    while True:
        with os.scandir(below) as entries:
            some = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in islice(entries, _ENTRIES_AT_ONCE)]
        if not some:
            return
        for name, is_folder in some:
            if not is_folder:
                os.unlink(name, dir_fd=below)
                continue
            opened = _open(name, below)  # to move a folder, one must be allowed to write in it
            if opened is not None:
                os.close(opened)
            moved = f".{os.getpid()}-{next(serial)}"
            os.rename(name, moved, src_dir_fd=below, dst_dir_fd=top)
            waiting.append(moved)


def _open(name: str, within: int) -> Optional[int]:
    """A folder, made ours to change; None: it is none."""
    try:
        fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
    except NotADirectoryError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    try:
        # By the descriptor: chmod(2) of a name follows a link that another put there meanwhile.
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(fd)
