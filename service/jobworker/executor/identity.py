"""Jobs of different users run as different users of the machine (`--uids`), so that the kernel keeps them apart.

A thread takes a job's user ids for as long as it looks for the job's program and folder and starts it. On Linux each
thread has credentials of its own (credentials(7)); glibc's functions change those of all threads, the system calls
those of one. An exec as another user than root leaves no capability (capabilities(7)), so a job has none.
"""

import os
import pwd
import threading
from contextlib import contextmanager
from typing import Iterator, NamedTuple, Optional

from . import libc

# What it takes to start processes of others, to give them their work folder, to signal them, and to see in /proc which
# job they belong to (ptrace(2), access mode checking).
WORKING = (libc.CAP_CHOWN, libc.CAP_KILL, libc.CAP_SETGID, libc.CAP_SETUID, libc.CAP_SYS_PTRACE)
# ... and to remove what they left, in folders of any mode. These stay off in threads that follow a job's paths.
REMOVING = (*WORKING, libc.CAP_DAC_OVERRIDE, libc.CAP_DAC_READ_SEARCH, libc.CAP_FOWNER)

_LEAST, _MOST = 1000, 2**31 - 1  # below are the system's own accounts, beyond what some file systems take
_NOBODYS = (65533, 65534, 65535)  # nobody and nogroup of the distributions; -1 of 16 bits


class Uids(NamedTuple):
    """The user ids that are the jobs', both ends included; each is a group id as well."""

    first: int
    last: int

    def __contains__(self, uid: object) -> bool:
        return isinstance(uid, int) and self.first <= uid <= self.last

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def parse(text: str) -> Uids:
    """FIRST-LAST.

    Raises:
        ValueError: it is no such range; its text says why.
    """
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal()):
        raise ValueError(f"{text!r} is not FIRST-LAST, such as 200000-299999")
    uids = Uids(int(first), int(last))
    if not _LEAST <= uids.first <= uids.last <= _MOST:
        raise ValueError(f"{text}: user ids go from {_LEAST} to {_MOST}, and the last is not below the first")
    for uid in _NOBODYS:
        if uid in uids:
            raise ValueError(f"{text}: {uid} is in it, which is nobody's on many machines")
    return uids


def check_free(uids: Uids, *, own: int) -> None:
    """Raises:
    ValueError: a user of this machine, or the executor itself, has one of them.
    """
    if own in uids:
        raise ValueError(f"user ids {uids}: {own} is in it, the executor's own")
    for account in pwd.getpwall():
        if account.pw_uid in uids:
            raise ValueError(f"user ids {uids}: {account.pw_uid} is in it, the account {account.pw_name}'s")


class Identity:
    """Whom the calling thread is for the kernel."""

    def __init__(self, uids: Optional[Uids]) -> None:
        """`uids`: those that may be taken; None: jobs run as the executor's own user."""
        self.uids = uids
        self._own = (os.getuid(), os.getgid())
        self._thread = threading.local()

    @contextmanager
    def assumed(self, uid: Optional[int]) -> Iterator[None]:
        """Within, the calling thread is that user, in that group alone; None: who it was.

        Raises:
            OSError: it may not be.
        """
        before = getattr(self._thread, "uid", None)
        if uid is None or uid == before:
            yield
            return
        self._become(uid)
        try:
            yield
        finally:
            self._become(before)

    def _become(self, uid: Optional[int]) -> None:
        if uid is None:
            libc.set_thread_user(*self._own)
        else:
            libc.set_thread_user(uid, uid)
        self._thread.uid = uid
