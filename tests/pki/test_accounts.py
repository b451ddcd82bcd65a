"""Users through their life: `passwd`, `logout`, `disable`, `enable`, `remove`; and their tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobpki.accounts import disable, enable, log_out, remove, set_password
from jobpki.bundle import load_certificate
from jobpki.directory import initialise, issue
from jobpki.errors import PkiError
from jobpki.issuing import authorities
from jobpki.passwords import password_matches
from jobpki.revocation import read_revoked
from jobpki.revokedtokens import read_revoked_tokens
from jobpki.revoking import revoke_tokens
from jobpki.users import Role, read_users, write_users
from tests.harness.pki import LOW_COST, USERS, Pki, make_pki

NOW = datetime.now(UTC)


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return make_pki(tmp_path / "pki", now=NOW)


def revoked(pki: Pki) -> set[int]:
    return {serial for _, serial in read_revoked(pki.layout.crl, authorities(pki.layout))}


def test_a_password_that_is_given_replaces_the_generated_one_and_its_file(pki: Pki) -> None:
    assert set_password(pki.root, "alice", "correct horse", cost=LOW_COST).password is None
    user = read_users(pki.layout.users)["alice"]
    assert password_matches("correct horse", user.password_hash)
    assert user.role is Role.OPERATOR
    assert not pki.layout.password("alice").exists()
    assert set_password(pki.root, "alice", "correct horse", cost=LOW_COST).done == []
    assert read_users(pki.layout.users)["alice"] == user


def test_without_one_a_password_is_generated_and_lies_beside_the_bundle(pki: Pki) -> None:
    made = set_password(pki.root, "alice", None, cost=LOW_COST).password
    assert made is not None
    assert made != pki.passwords["alice"]
    assert pki.layout.password("alice").read_text() == f"{made}\n"
    assert password_matches(made, read_users(pki.layout.users)["alice"].password_hash)


@pytest.mark.parametrize("password", ["", "7 chars", "x" * 1025])
def test_a_password_that_is_too_short_or_too_long_changes_nothing(pki: Pki, password: str) -> None:
    before = pki.layout.users.read_bytes()
    with pytest.raises(PkiError, match="the password is"):
        set_password(pki.root, "alice", password, cost=LOW_COST)
    assert pki.layout.users.read_bytes() == before


def test_a_disabled_user_keeps_everything_and_can_be_enabled(pki: Pki) -> None:
    before = read_users(pki.layout.users)["alice"]
    assert disable(pki.root, "alice").done
    assert disable(pki.root, "alice").done == []
    off = read_users(pki.layout.users)["alice"]
    assert (off.disabled, off.role, off.password_hash) == (True, before.role, before.password_hash)
    assert off.epoch != before.epoch
    initialise(pki.root, now=NOW, users=USERS, cost=LOW_COST)
    notes = issue(pki.root, "alice", role=Role.VIEWER, now=NOW, password="correct horse", cost=LOW_COST).notes
    assert notes == ["alice stays disabled: `jobpki enable alice`"]
    assert read_users(pki.layout.users)["alice"].disabled
    assert enable(pki.root, "alice").done
    assert enable(pki.root, "alice").done == []
    on = read_users(pki.layout.users)["alice"]
    assert (on.disabled, on.role, on.epoch) == (False, Role.VIEWER, off.epoch)


def test_tokens_before_a_time_end_and_an_earlier_time_brings_none_back(pki: Pki) -> None:
    now = datetime.now(UTC)
    hour_ago = (now - timedelta(hours=1)).replace(microsecond=0)
    before = read_users(pki.layout.users)["alice"]
    assert log_out(pki.root, "alice", before=hour_ago, now=now).done
    assert log_out(pki.root, "alice", before=hour_ago - timedelta(hours=1), now=now).done == []
    assert read_users(pki.layout.users)["alice"] == replace(before, tokens_from=hour_ago)
    with pytest.raises(PkiError, match="yet to come"):
        log_out(pki.root, "alice", before=now + timedelta(hours=1), now=now)
    half = hour_ago + timedelta(milliseconds=500)  # a token of that second may be older: it ends
    assert log_out(pki.root, "alice", before=half, now=now).done
    assert log_out(pki.root, "alice", before=half, now=now).done == []
    assert read_users(pki.layout.users)["alice"].tokens_from == hour_ago + timedelta(seconds=1)
    assert log_out(pki.root, "alice", now=now).done
    assert read_users(pki.layout.users)["alice"].epoch == before.epoch + 1


def test_revoked_tokens_are_kept_as_long_as_a_token_may_live(pki: Pki) -> None:
    now = datetime.now(UTC)
    assert revoke_tokens(pki.root, ["A" * 22, "B" * 22], now=now) == ["A" * 22, "B" * 22]
    assert revoke_tokens(pki.root, ["B" * 22], now=now) == []
    assert revoke_tokens(pki.root, ["C" * 22], now=now + timedelta(days=365)) == ["C" * 22]
    assert set(read_revoked_tokens(pki.layout.revoked_tokens)) == {"A" * 22, "B" * 22, "C" * 22}
    assert revoke_tokens(pki.root, ["D" * 22], now=now + timedelta(days=367)) == ["D" * 22]
    assert set(read_revoked_tokens(pki.layout.revoked_tokens)) == {"C" * 22, "D" * 22}
    for wrong in ("", "A" * 21, "A" * 23, "../" + "A" * 19, "A" * 22 + "\n"):
        with pytest.raises(PkiError, match="not a token's id"):
            revoke_tokens(pki.root, ["E" * 22, wrong], now=now)
    assert "E" * 22 not in read_revoked_tokens(pki.layout.revoked_tokens)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["logout", "alice", "--before", "then"], "is not a time"),
        (["logout", "alice", "--before", "2026-01-01T00:00:00"], "no time zone"),
        (["revoke-token", "short"], "not a token's id"),
    ],
)
def test_a_time_or_an_id_that_is_none_is_one_line_and_a_failure(pki: Pki, command: list[str], why: str) -> None:
    run = [sys.executable, "-m", "jobpki.cli", *command, "--dir", str(pki.root)]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert why in done.stderr


def test_the_only_administrator_can_be_neither_disabled_nor_removed(pki: Pki) -> None:
    with pytest.raises(PkiError, match="admin is the only administrator and cannot be disabled"):
        disable(pki.root, "admin")
    issue(pki.root, "alice", role=Role.ADMIN, now=NOW, cost=LOW_COST)
    disable(pki.root, "admin")
    for deed in (
        lambda: disable(pki.root, "alice"),
        lambda: remove(pki.root, "alice", now=NOW),
        lambda: issue(pki.root, "alice", role=Role.VIEWER, now=NOW, cost=LOW_COST),
    ):
        with pytest.raises(PkiError, match="alice is the only administrator"):
            deed()


def test_admin_is_disabled_and_not_removed_since_init_would_bring_it_back(pki: Pki) -> None:
    issue(pki.root, "alice", role=Role.ADMIN, now=NOW, cost=LOW_COST)
    with pytest.raises(PkiError, match="disable it"):
        remove(pki.root, "admin", now=NOW)
    disable(pki.root, "admin")
    initialise(pki.root, now=NOW, cost=LOW_COST)
    assert read_users(pki.layout.users)["admin"].disabled


def test_a_removed_user_is_gone_with_its_bundle_and_its_certificates_are_revoked(pki: Pki) -> None:
    serial = load_certificate(pki.client("alice") / "tls.crt").serial_number
    remove(pki.root, "alice", now=NOW)
    assert "alice" not in read_users(pki.layout.users)
    assert not pki.client("alice").exists()
    assert revoked(pki) == {serial}
    assert remove(pki.root, "alice", now=NOW).done == []
    with pytest.raises(PkiError, match="there is no user carol"):
        remove(pki.root, "carol", now=NOW)


def test_one_who_comes_again_has_another_key_and_password(pki: Pki) -> None:
    key = (pki.client("alice") / "tls.key").read_bytes()
    remove(pki.root, "alice", now=NOW)
    password = issue(pki.root, "alice", role=None, now=NOW, cost=LOW_COST).passwords["alice"]
    assert password != pki.passwords["alice"]
    assert (pki.client("alice") / "tls.key").read_bytes() != key
    assert load_certificate(pki.client("alice") / "tls.crt").serial_number not in revoked(pki)


def test_without_the_authoritys_key_a_user_can_be_removed_and_it_is_told_what_is_left(pki: Pki) -> None:
    pki.layout.ca_key.rename(pki.root.parent / "ca.key")
    notes = remove(pki.root, "alice", now=NOW).notes
    assert notes == [f"its certificates are not revoked: {pki.layout.ca_key} is not here"]
    assert "alice" not in read_users(pki.layout.users)


@pytest.mark.parametrize(
    "command", [["passwd"], ["logout"], ["disable"], ["enable"], ["remove"], ["renew"], ["revoke"], ["export"]]
)
def test_a_user_who_is_not_there_is_one_line_and_a_failure(pki: Pki, command: list[str], tmp_path: Path) -> None:
    more = [str(tmp_path / "out")] if command == ["export"] else []
    run = [sys.executable, "-m", "jobpki.cli", *command, "nobody", *more, "--dir", str(pki.root)]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "nobody" in done.stderr
    assert done.stderr.startswith("jobpki: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"disabled": "yes"}, "alice.disabled is neither"),
        ({"epoch": -1}, "alice.epoch"),
        ({"epoch": True}, "epoch"),
        ({"tokens_from": "then"}, "alice.tokens_from is not"),
        ({"tokens_from": "2027-01-01T00:00:00"}, "no time zone"),
    ],
)
def test_a_users_file_that_says_neither_yes_nor_no_is_refused(pki: Pki, entry: dict[str, object], why: str) -> None:
    document = json.loads(pki.layout.users.read_text())
    document["users"]["alice"] |= entry
    pki.layout.users.write_text(json.dumps(document))
    with pytest.raises(PkiError, match=why):
        read_users(pki.layout.users)


def test_what_is_usual_is_not_written(pki: Pki) -> None:
    users = read_users(pki.layout.users)
    write_users(pki.layout.users, users)
    assert read_users(pki.layout.users) == users
    assert "epoch" not in pki.layout.users.read_text()
    assert "tokens_from" not in pki.layout.users.read_text()
    assert "disabled" not in pki.layout.users.read_text()


@pytest.mark.root
def test_what_root_changes_stays_its_owners(pki: Pki) -> None:
    other = 54321
    for path in [pki.root, *pki.root.rglob("*")]:
        os.chown(path, other, other)
    set_password(pki.root, "alice", None, cost=LOW_COST)
    issue(pki.root, "carol", role=None, now=NOW, cost=LOW_COST)
    remove(pki.root, "vic", now=NOW)
    assert {path.stat().st_uid for path in pki.root.rglob("*")} == {other}
