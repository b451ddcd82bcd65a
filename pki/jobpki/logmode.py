"""Who may read a log file: its owner alone (0600), whatever the umask, and the group (0640) in a folder that is given
to a group: one with the set-group-ID bit, which the group may read (2750). Others never may."""

from __future__ import annotations

import contextlib
import os
import stat

OWN = 0o600
_GROUP = 0o040
_GROUPS_FOLDER = stat.S_ISGID | stat.S_IRGRP | stat.S_IXGRP


def close_to_others(fd: int, folder: str) -> None:
    """Gives an open file of a folder that mode. A group that somebody has let read a file stays so."""
    found = os.fstat(fd).st_mode
    if not stat.S_ISREG(found):
        return  # a terminal, a pipe: not ours to close
    is_shared = os.stat(folder).st_mode & _GROUPS_FOLDER == _GROUPS_FOLDER
    mode = OWN | (found & _GROUP) | (_GROUP if is_shared else 0)
    if mode != stat.S_IMODE(found):
        with contextlib.suppress(PermissionError):  # another user's file, which we may write
            os.fchmod(fd, mode)
