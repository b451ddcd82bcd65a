"""Where a password comes from without anybody being asked: a file, a command that prints it, or the environment."""

from __future__ import annotations

import os
import select
import shlex
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobworker.ctl.exits import CtlError, complain

if TYPE_CHECKING:
    from pathlib import Path

COMMAND_SECONDS = 60.0  # a password manager may ask for its own, or for a touch of a key
_LAST_SECONDS = 5.0  # for its end, once it has printed all
_BYTES_MAX = 64 << 10


@dataclass(frozen=True)
class PasswordSource:
    """The first of these that is given: `file` (`-` is standard input), `command`, `text`."""

    file: Path | None = None
    command: str | None = None
    text: str | None = None

    def __bool__(self) -> bool:
        return not (self.file is None and self.command is None and self.text is None)

    def read(self, *, user: str, server: str) -> str:
        """The password, without line ends behind it.

        Raises:
            CtlError: the file or the command gives none; nothing of what they gave is in it.
        """
        if self.file is not None:
            return _of_file(self.file)
        if self.command is not None:
            return _of_command(self.command, user=user, server=server)
        assert self.text is not None  # noqa: S101 - whoever reads has asked whether there is anything
        return self.text


def _of_file(path: Path) -> str:
    """Says on stderr when others may read it."""
    from jobworker.client.bundle import exposure

    try:
        if str(path) == "-":
            return sys.stdin.read().rstrip("\r\n")
        with path.open() as file:
            found = os.fstat(file.fileno()).st_mode
            exposed = exposure(path, stat.S_IMODE(found), is_secret=True) if stat.S_ISREG(found) else ""
            if exposed:
                complain(exposed)
            return file.read().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CtlError(f"{path}: {getattr(error, 'strerror', None) or 'is not text'}") from error


def _of_command(command: str, *, user: str, server: str) -> str:
    """Run without a shell. Its standard input is empty, since ours may be jobs; its standard error is ours."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise CtlError(f"the password command cannot be taken apart: {str(error).lower()}") from None
    if not words:
        raise CtlError("the password command is empty")
    name = f"the password command {words[0]}"
    environment = {**os.environ, "JOBCTL_USER": user, "JOBCTL_SERVER": server}
    try:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment)
    except OSError as error:
        raise CtlError(f"{name} cannot be run: {error.strerror}") from error
    try:
        printed = _printed(process)
        process.wait(_LAST_SECONDS)
    except TimeoutError:
        raise CtlError(f"{name} has not ended in {COMMAND_SECONDS:g} s") from None
    except subprocess.TimeoutExpired:
        raise CtlError(f"{name} has printed something, and does not end") from None
    finally:
        process.kill()  # of one that has ended: nothing
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if process.returncode:
        raise CtlError(f"{name} ended with exit code {process.returncode}")
    try:
        password = printed.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise CtlError(f"{name} printed something that is not text") from None
    if not password:
        raise CtlError(f"{name} printed nothing")
    return password


def _printed(process: subprocess.Popen[bytes]) -> bytes:
    """What it prints until it closes its output; no more than is too much for a password.

    Raises:
        TimeoutError: it takes too long.
    """
    assert process.stdout is not None  # noqa: S101 - it was asked for
    deadline, printed = time.monotonic() + COMMAND_SECONDS, b""
    while len(printed) < _BYTES_MAX:
        if not select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        piece = os.read(process.stdout.fileno(), _BYTES_MAX)
        if not piece:
            break
        printed += piece
    return printed
