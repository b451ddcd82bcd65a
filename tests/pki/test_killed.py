"""Runs that die at each of their calls to the file system, and the run after: nothing is lost, nothing half made.

The run is a child process that ends, with no clean-up, right before its nth call; n goes from the first to the last.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from jobpki import publish
from jobpki.accounts import disable, enable, log_out, remove, set_password
from jobpki.bundle import check_bundle, check_server_bundle
from jobpki.directory import initialise, issue
from jobpki.layout import Layout
from jobpki.passwords import password_matches
from jobpki.renewal import renew_due, renew_one
from jobpki.revocation import REASONS
from jobpki.revoking import revoke, revoke_tokens
from jobpki.rotation import finish, finish_token_key, prepare, rotate_token_key, switch
from jobpki.users import Role, read_users
from jobpki.verify import Verification
from tests.harness.pki import LOW_COST

NOW = datetime.now(UTC)
BEFORE = NOW - timedelta(days=300)  # its certificates are past two thirds of their life
KILLED = 137
_OPEN = os.open
_CALLS = ("open", "rename", "mkdir", "chmod", "unlink", "rmdir")  # those that change what is found afterwards

Run = Callable[[Path], object]


def _prepared(root: Path) -> None:
    prepare(root, now=NOW)


def _switched(root: Path) -> None:
    prepare(root, now=NOW)
    switch(root, now=NOW)


# What was done before, and the run that dies.
RUNS: dict[str, tuple[Run | None, Run]] = {
    "init": (None, lambda root: initialise(root, now=NOW, cost=LOW_COST)),
    "issue": (None, lambda root: issue(root, "bob", role=Role.VIEWER, now=NOW, cost=LOW_COST)),
    "passwd": (None, lambda root: set_password(root, "alice", None, cost=LOW_COST)),
    "passwd given": (None, lambda root: set_password(root, "alice", "correct horse", cost=LOW_COST)),
    "logout": (None, lambda root: log_out(root, "alice", now=NOW)),
    "revoke-token": (None, lambda root: revoke_tokens(root, ["A" * 22], now=NOW)),
    "disable": (None, lambda root: disable(root, "alice")),
    "enable": (lambda root: disable(root, "alice"), lambda root: enable(root, "alice")),
    "remove": (None, lambda root: remove(root, "alice", now=NOW)),
    "revoke": (None, lambda root: revoke(root, "alice", reason=REASONS["superseded"], now=NOW)),
    "renew": (None, lambda root: renew_due(root, now=NOW)),
    "renew with a new key": (None, lambda root: renew_one(root, "alice", now=NOW, new_key=True)),
    "prepare": (None, lambda root: prepare(root, now=NOW)),
    "switch": (_prepared, lambda root: switch(root, now=NOW)),
    "finish": (_switched, lambda root: finish(root, now=NOW)),
    "rotate-token-key": (None, lambda root: rotate_token_key(root, at_once=True)),
    "rotate-token-key --finish": (rotate_token_key, finish_token_key),
}


def dies(run: Run, root: Path, *, before: int) -> bool:
    """Whether the run died right before so many of its calls; False: it has fewer."""
    child = os.fork()
    if not child:
        status = 1
        try:
            _arm(before)
            run(root)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, KILLED)
    return code == KILLED


def _arm(before: int) -> None:
    left = before

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def one(*args: object, **options: object) -> object:
            nonlocal left
            is_read = call is _OPEN and not args[1] & os.O_CREAT  # type: ignore[operator]
            left -= not is_read
            if not left and not is_read:
                os._exit(KILLED)
            return call(*args, **options)

        return one

    for name in _CALLS:
        setattr(os, name, counted(getattr(os, name)))
    publish._exchange = counted(publish._exchange)  # type: ignore[assignment]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PKI of admin and alice. Whoever is killed loses nothing that was not synced."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    root = tmp_path / "made"
    initialise(root, now=BEFORE, users={"alice": Role.OPERATOR}, cost=LOW_COST)
    return root


def copies(made: Path) -> Iterator[Path]:
    while True:
        copy = made.with_name("copy")
        shutil.copytree(made, copy, symlinks=True)
        yield copy
        shutil.rmtree(copy)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_dies_at_any_call_is_finished_by_the_same_run(made: Path, name: str) -> None:
    _every_death(made, name)


@pytest.mark.parametrize("name", ["init", "renew with a new key", "switch", "finish"])
def test_so_is_one_where_the_file_system_cannot_exchange_two_names(
    made: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "_exchange", lambda one, other: False)
    _every_death(made, name)


def _every_death(made: Path, name: str) -> None:
    before, run = RUNS[name]
    if before is not None:
        before(made)
    if name == "init":
        shutil.rmtree(made / "server")
        shutil.rmtree(made / "clients/alice")
    for number, root in enumerate(copies(made), 1):
        died = dies(run, root, before=number)
        layout = Layout(root)
        if died:
            _nothing_is_lost(made, root)
            run(root)
        faults = [
            str(fault) for fault in Verification(root, now=datetime.now(UTC)).faults if "is revoked" not in str(fault)
        ]
        assert faults == [], number
        check_server_bundle(root, now=NOW)
        for folder in (layout.client("admin"), layout.client("alice")):
            if folder.exists():
                check_bundle(folder, usage=ExtendedKeyUsageOID.CLIENT_AUTH, now=NOW)
        assert not [path for path in root.rglob("*") if path.name.startswith((".new-", ".old-"))]
        if not died:
            assert number > 3
            return


def _nothing_is_lost(made: Path, root: Path) -> None:
    """Right after the death, as a reader finds it: each key and password that was not to change is still there."""
    here = {
        p.relative_to(made) for p in made.rglob("*") if p.is_file() and p.name in {"ca.key", "users.json", "token.key"}
    }
    missing = [path for path in here if not (root / path).exists()]
    # Between two renames the folder is under its other name; the next run brings it back.
    assert all(path.parts[0] == "ca" and list(root.glob(".old-ca-*")) for path in missing), missing
    users = read_users(root / "auth/users.json")
    assert users["admin"].password_hash == read_users(made / "auth/users.json")["admin"].password_hash
    password = root / "clients/admin/password"
    if password.exists():
        assert password_matches(password.read_text().strip(), users["admin"].password_hash)
