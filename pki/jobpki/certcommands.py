"""The commands about certificates and keys: `renew`, `revoke`, `rotate-ca`, `rotate-token-key`, `export`."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from jobpki import renewal, revoking, rotation
from jobpki.errors import PkiError
from jobpki.export import export as exported
from jobpki.layout import SECRET_MODE
from jobpki.options import DAYS_MAX, DEFAULT_DIR, DirOption, now, tell
from jobpki.publish import publish_file
from jobpki.renewal import Renewal
from jobpki.revocation import REASONS
from jobpki.watching import watch as watch_and_renew

Reason = StrEnum("Reason", {name.upper().replace("-", "_"): name for name in REASONS})  # type: ignore[misc]
BundleArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="`server`, `health` or a user; one who is called so: `user/server`.")
]


class Step(StrEnum):
    """Of the authority's rotation."""

    PREPARE = "prepare"
    SWITCH = "switch"
    FINISH = "finish"


def renew(  # noqa: PLR0917 - typer passes options by name
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="`server`, `health` or a user; one who is called so: `user/server`. "
            "None: every bundle that is past two thirds of its life.",
        ),
    ] = None,
    root: DirOption = DEFAULT_DIR,
    days: Annotated[
        int | None, typer.Option(min=1, max=DAYS_MAX, help="Lifetime of the new certificate. [default: as before]")
    ] = None,
    san: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME_OR_IP", help="A name or address of the server, in the place of those it has; may be repeated."
        ),
    ] = None,
    new_key: Annotated[
        bool,
        typer.Option("--new-key", help="With another key; tokens that were given out over the old one end with it."),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on, and look again every so many minutes, until SIGTERM or SIGINT.")
    ] = False,
    every: Annotated[int, typer.Option(metavar="MINUTES", min=1, max=1440, help="How often --watch looks.")] = 60,
) -> None:
    """Issue certificates anew, with the same key, names and lifetime.

    A server that runs takes its own within seconds. A user's bundle is to be given out again.
    """
    if name is None:
        if days is not None or san or new_key:
            raise PkiError("--days, --san and --new-key are for one bundle: name it")
        if watch:
            watch_and_renew(root, every_seconds=every * 60)
        else:
            _tell(renewal.renew_due(root, now=now()))
        return
    if watch:
        raise PkiError("--watch renews what is due: name no bundle")
    lifetime = None if days is None else timedelta(days=days)
    _tell(renewal.renew_one(root, name, now=now(), lifetime=lifetime, names=san or (), new_key=new_key))


def revoke(
    what: Annotated[
        str, typer.Argument(metavar="NAME|SERIAL", help="A user, or a certificate's serial in hex, as `list` has it.")
    ],
    root: DirOption = DEFAULT_DIR,
    reason: Annotated[Reason, typer.Option(help="For the CRL.")] = Reason.UNSPECIFIED,  # type: ignore[attr-defined]
) -> None:
    """Revoke all certificates of a user, or one. The server refuses them at the next login and call.

    The user stays: `jobpki issue NAME` makes a bundle with another key, `jobpki disable NAME` shuts it out. The list of
    what is revoked is auth/crl.pem, which the authority signs (RFC 5280).
    """
    serials = revoking.revoke(root, what, reason=REASONS[reason.value], now=now())
    tell(f"revoked {serial:x}" for serial in serials)


def rotate_ca(
    step: Annotated[Step, typer.Argument(help="The next one of the three; each may be repeated.")],
    root: DirOption = DEFAULT_DIR,
    days: Annotated[
        int | None, typer.Option(min=1, max=DAYS_MAX, help="Lifetime of the new authority, of `prepare`.")
    ] = None,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait/--no-wait", help="Until running servers can have taken the step before, some seconds after it."
        ),
    ] = True,
) -> None:
    """Put another authority in the place of this one, in three steps. Running servers take each within seconds.

    prepare: a new authority is made, and every bundle trusts both. Give out the bundles.
    switch: the new one signs, and every bundle is issued anew. Give out the bundles.
    finish: the old one is forgotten; what it has signed is refused.
    """
    if wait and step is not Step.PREPARE and (seconds := rotation.taken_in_seconds(root, now=time.time())) > 0:
        sys.stderr.write(f"jobpki: waiting {seconds:.0f} s, until servers have taken the step before\n")
        time.sleep(seconds)
    if step is Step.PREPARE:
        done = rotation.prepare(root, now=now(), lifetime=None if days is None else timedelta(days=days))
    elif step is Step.SWITCH:
        done = rotation.switch(root, now=now())
    else:
        done = rotation.finish(root, now=now())
    _tell(done)


def rotate_token_key(
    root: DirOption = DEFAULT_DIR,
    finish: Annotated[bool, typer.Option("--finish", help="Forget the key of before.")] = False,
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Forget it now: after a leak. Everyone has to log in again.")
    ] = False,
) -> None:
    """Sign tokens with another key. Tokens of the one before are good until `--finish`.

    Finish when they have expired (auth.token_lifetime_seconds). The server takes the new key without a restart.
    """
    if finish and at_once:
        raise PkiError("--finish and --at-once exclude each other")
    tell([rotation.finish_token_key(root) if finish else rotation.rotate_token_key(root, at_once=at_once)])


def export(
    name: BundleArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; - for standard output.")],
    root: DirOption = DEFAULT_DIR,
    with_password: Annotated[
        bool, typer.Option("--with-password", help="With the generated password. It is better sent on another way.")
    ] = False,
) -> None:
    """Write a bundle as one file, a tar, to be given to its user.

    `tar -xf FILE` makes a folder of it, for `jobctl --bundle`.
    """
    content = exported(root, name, with_password=with_password)
    if str(file) == "-":
        if os.isatty(1):
            raise PkiError("a terminal shows no tar: give a file, or a pipe")
        sys.stdout.buffer.write(content)
        return
    try:
        publish_file(file, content, mode=SECRET_MODE)
    except OSError as error:
        raise PkiError(f"cannot be written ({error.strerror})", path=file) from error
    typer.echo(f"wrote {file}")


def _tell(done: Renewal) -> None:
    lines = [f"{subject.folder}: valid until {end:%Y-%m-%d %H:%M:%S} UTC" for subject, end in done.done]
    lines += [f"{subject.folder}: trusts what it is to trust now" for subject in done.trusted]
    tell(lines, done.notes)
