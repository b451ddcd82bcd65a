"""Every command of jobpki that changes something, on a disk that forgets what was not synced: after a power failure at
any moment the folder is as it was, or as it was to be, or is finished by the next run; what a command said is done, is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobpki import accounts, directory, renewal, revoking, rotation
from jobpki.bundle import load_certificate
from jobpki.layout import Layout
from jobpki.revocation import REASONS
from jobpki.revokedtokens import read_revoked_tokens
from jobpki.users import Role, read_users
from jobpki.verify import Verification
from tests.harness.crashdisk import images
from tests.harness.crashedpki import PkiDisk, with_modes
from tests.harness.pki import LOW_COST, make_pki

TOKEN = "T" * 22


@dataclass(frozen=True)
class Command:
    """`run` on a folder; `done` tells whether it was done. `before` is done first, and durable."""

    run: Callable[[Path], object]
    done: Callable[[Path], object]
    before: Callable[[Path], object] = lambda _root: None


def _serial(root: Path, user: str) -> int:
    return load_certificate(Layout(root).client(user) / "tls.crt").serial_number


def _initialise(root: Path) -> None:
    directory.initialise(root, now=datetime.now(UTC), users={"alice": Role.OPERATOR}, cost=LOW_COST)


def _issue(root: Path) -> None:
    directory.issue(root, "carol", role=Role.VIEWER, now=datetime.now(UTC), cost=LOW_COST)


def _prepared(root: Path) -> None:
    rotation.prepare(root, now=datetime.now(UTC))


def _switched(root: Path) -> None:
    _prepared(root)
    rotation.switch(root, now=datetime.now(UTC))


def _rotate_token_key(root: Path) -> None:
    if not _two_keys(root):  # it says so, and that the next step is --finish
        rotation.rotate_token_key(root)


def _two_keys(root: Path) -> bool:
    return Layout(root).token_key.read_bytes().count(b"BEGIN") == 2


COMMANDS = {
    "init": Command(_initialise, lambda root: read_users(Layout(root).users)["alice"]),
    "issue": Command(_issue, lambda root: (_serial(root, "carol"), read_users(Layout(root).users)["carol"])),
    "renew": Command(
        lambda root: renewal.renew_one(root, "alice", now=datetime.now(UTC)),
        lambda root: _serial(root, "alice") != BASE["serial"],
    ),
    "revoke": Command(
        lambda root: revoking.revoke(root, "alice", reason=REASONS["key-compromise"], now=datetime.now(UTC)),
        lambda root: Layout(root).crl.read_bytes(),
    ),
    "passwd": Command(
        lambda root: accounts.set_password(root, "alice", "another password", cost=LOW_COST),
        lambda root: read_users(Layout(root).users)["alice"] != BASE["user"],
    ),
    "disable": Command(
        lambda root: accounts.disable(root, "alice"), lambda root: read_users(Layout(root).users)["alice"].disabled
    ),
    "remove": Command(
        lambda root: accounts.remove(root, "alice", now=datetime.now(UTC)),
        lambda root: "alice" not in read_users(Layout(root).users),
    ),
    "logout": Command(
        lambda root: accounts.log_out(root, "alice", now=datetime.now(UTC)),
        lambda root: read_users(Layout(root).users)["alice"] != BASE["user"],
    ),
    "revoke-token": Command(
        lambda root: revoking.revoke_tokens(root, [TOKEN], now=datetime.now(UTC)),
        lambda root: TOKEN in read_revoked_tokens(Layout(root).revoked_tokens),
    ),
    "rotate-token-key": Command(_rotate_token_key, _two_keys),
    "rotate-ca prepare": Command(_prepared, lambda root: Layout(root).ca_next.exists()),
    "rotate-ca switch": Command(
        lambda root: rotation.switch(root, now=datetime.now(UTC)),
        lambda root: Layout(root).ca_previous.exists(),
        before=_prepared,
    ),
    "rotate-ca finish": Command(
        lambda root: rotation.finish(root, now=datetime.now(UTC)),
        lambda root: not Layout(root).ca_previous.exists(),
        before=_switched,
    ),
}
BASE: dict[str, object] = {}
FATES = 3  # beside nothing and all of what was not synced
LOOKED_AT = 30  # moments of a run; all of most


def base(folder: Path, command: Command, *, empty: bool) -> Path:
    root = folder / "pki"
    if empty:
        root.mkdir(mode=0o700)
    else:
        make_pki(root)
        command.before(root)
        BASE["serial"] = _serial(root, "alice")
        BASE["user"] = read_users(Layout(root).users)["alice"]
    return root


def harm(folder: Path, name: str, *, skip: Callable[[str, str], bool] = lambda _call, _path: False) -> list[str]:
    """What was found wrong after power failures; one is enough."""
    command = COMMANDS[name]
    root = base(folder, command, empty=name == "init")
    disk = PkiDisk(root, skip=skip)
    first = len(disk.ops)
    with disk.recorded():
        command.run(root)
    end = len(disk.ops)
    step = max(1, (end - first) // LOOKED_AT)
    (folder / "images").mkdir()
    for (moment, image), _ in zip(
        images(disk, folder / "images", first=first, seed=1, each=FATES), itertools.count(), strict=False
    ):
        if moment != end and (moment - first) % step:
            continue
        with_modes(image)
        try:
            if moment == end:
                assert command.done(image), "it said that it was done, and is not"
            else:
                command.run(image)
            assert command.done(image), "the next run has not finished it"
            problems = [str(fault) for fault in Verification(image, now=datetime.now(UTC)).faults]
            if name == "revoke":
                problems = [problem for problem in problems if "is revoked - run: jobpki issue alice" not in problem]
            assert not problems, problems
        except Exception as error:
            return [f"{name}, moment {moment - first} of {end - first}: {type(error).__name__}: {error}"]
    return []


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_is_undone_by_a_power_failure_and_the_next_run_finishes(tmp_path: Path, name: str) -> None:
    assert harm(tmp_path, name) == []


@pytest.mark.parametrize("call", ["sync", "sync_folder"])
@pytest.mark.parametrize("name", ["issue", "renew", "passwd", "revoke", "revoke-token", "rotate-ca switch"])
def test_each_kind_of_sync_is_needed(tmp_path: Path, name: str, call: str) -> None:
    assert harm(tmp_path, name, skip=lambda what, _path: what == call)
