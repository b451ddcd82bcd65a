"""What all commands share: which service, which bundle, where tokens lie; and how a command is run.

The environment is read here and nowhere else in `ctl`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobworker.ctl.certificate import certificate_of
from jobworker.ctl.exits import CtlError, Exit, complain, explain
from jobworker.ctl.passwords import PasswordSource

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import typer

    from jobworker.client import Client
    from jobworker.client.bundle import BundleFolder
    from jobworker.client.clock import ServerClock
    from jobworker.ctl.tokens import TokenFile

DEFAULT_SERVER = "localhost:50051"
_HERE = Path("var/pki/clients/admin")  # where `jobworker run` in this folder has left the first bundle


@dataclass(frozen=True)
class Context:
    """The global options, and what follows from them."""

    server: str
    bundle: Path
    cache: Path  # the folder of the tokens
    password: PasswordSource

    @classmethod
    def of(cls, context: typer.Context) -> Context:
        """The one that the command was started with."""
        found = context.find_object(cls)
        assert found is not None  # noqa: S101 - the application makes it before any command
        return found

    def user(self) -> str:
        """Whom the certificate names."""
        return certificate_of(self.bundle).user

    def tokens(self, user: str | None = None, *, clock: ServerClock | None = None) -> TokenFile:
        """The token of a user, of the certificate's where none is given."""
        from jobworker.ctl.reminder import remind
        from jobworker.ctl.tokens import TokenFile

        certificate = certificate_of(self.bundle)
        name = user or certificate.user
        tokens = TokenFile(
            self.cache,
            address=self.server,
            user=name,
            key_id=certificate.key_id,
            password=partial(self.password.read, user=name, server=self.server) if self.password else None,
            clock=clock,
        )
        remind(tokens, certificate, bundle=self.bundle)
        return tokens

    def client(self) -> Client:
        """A client that sends the kept token, and logs in by itself where there is a password to do so with."""
        from jobworker.client import Client
        from jobworker.client.clock import ServerClock

        clock = ServerClock()
        tokens = self.tokens(clock=clock)  # says more of a bundle that is not there
        return Client(address=self.server, bundle=self._read_bundle(), token=tokens, clock=clock)

    def anonymous(self) -> Client:
        """A client for logging in."""
        from jobworker.client import Client

        return Client(address=self.server, bundle=self._read_bundle())

    def with_token(self, text: str) -> Client:
        """A client for a call with this token, and no other if it is refused."""
        from jobworker.client import Client

        return Client(address=self.server, bundle=self._read_bundle(), token=text)

    def _read_bundle(self) -> BundleFolder:
        """Says on stderr what of it others may read or change."""
        from jobworker.client import ExposedFileWarning
        from jobworker.client.bundle import BundleFolder

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ExposedFileWarning)
            bundle = BundleFolder(self.bundle)
        for warning in caught:
            complain(str(warning.message))
        return bundle

    def run(self, main: Coroutine[Any, Any, int | None]) -> int:
        """Runs a command to its end; its exit code.

        Raises:
            CtlError: it failed, on this side or in a call.
        """
        try:
            code = asyncio.run(main)
            sys.stdout.flush()
        except BrokenPipeError:
            return _broken_pipe()
        except Exception as error:
            from jobworker.client import JobworkerError

            if isinstance(error, JobworkerError):
                raise CtlError(*explain(error, server=self.server)) from error
            raise
        return Exit.OK if code is None else code


def run_here(main: Callable[[], None]) -> int:
    """Runs what calls no service; the exit code."""
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        return _broken_pipe()
    return Exit.OK


def _broken_pipe() -> int:
    """Whoever read our output is gone (`| head`). The interpreter flushes once more as it ends, into nothing then:
    https://docs.python.org/3/library/signal.html#note-on-sigpipe"""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.PIPE


def default_bundle() -> Path:
    """The bundle where neither option nor environment names one."""
    if _HERE.is_dir():
        return _HERE
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "jobworker" / "bundle"


def cache_folder() -> Path:
    """Where tokens lie."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jobworker"


def given_password() -> str | None:
    """The password in the environment."""
    return os.environ.get("JOBCTL_PASSWORD")


def colours_wanted() -> bool:
    """Whether a terminal is to get colours: https://no-color.org, and terminfo(5) of `dumb`."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def use_utc() -> None:
    """Times are shown in UTC from now on, as with TZ=UTC."""
    os.environ["TZ"] = "UTC"
    time.tzset()
