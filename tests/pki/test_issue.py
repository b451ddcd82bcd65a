"""`issue`: users that come, and change."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobpki.directory import InitResult, issue
from jobpki.errors import PkiError
from jobpki.passwords import password_matches
from jobpki.users import Role, read_users
from tests.harness.pki import LOW_COST, Pki, make_pki

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return make_pki(tmp_path, now=NOW)


def issue_to(pki: Pki, name: str, role: Role, password: str | None = None) -> InitResult:
    return issue(pki.root, name, role=role, now=NOW, password=password, cost=LOW_COST)


def test_a_new_user_gets_a_bundle_an_entry_and_a_password(pki: Pki) -> None:
    result = issue_to(pki, "carol", Role.VIEWER)
    user = read_users(pki.layout.users)["carol"]
    assert user.role is Role.VIEWER
    assert password_matches(result.passwords["carol"], user.password_hash)
    assert pki.layout.password("carol").read_text().strip() == result.passwords["carol"]
    assert (pki.client("carol") / "tls.crt").exists()


def test_a_password_that_was_given_is_stored_nowhere_but_as_a_hash(pki: Pki) -> None:
    result = issue_to(pki, "carol", Role.VIEWER, "correct horse")
    assert result.passwords == {}
    assert password_matches("correct horse", read_users(pki.layout.users)["carol"].password_hash)
    assert not [p for p in pki.root.rglob("*") if p.is_file() and b"correct horse" in p.read_bytes()]


def test_a_role_changes_and_certificate_and_password_stay(pki: Pki) -> None:
    certificate, before = pki.certificate_pem("alice"), read_users(pki.layout.users)["alice"]
    issue_to(pki, "alice", Role.VIEWER)
    after = read_users(pki.layout.users)["alice"]
    assert after.role is Role.VIEWER
    assert (after.password_hash, after.created_at) == (before.password_hash, before.created_at)
    assert pki.certificate_pem("alice") == certificate


def test_a_new_password_replaces_the_generated_one_and_its_file(pki: Pki) -> None:
    issue_to(pki, "alice", Role.OPERATOR, "another one")
    password_hash = read_users(pki.layout.users)["alice"].password_hash
    assert password_matches("another one", password_hash)
    assert not password_matches(pki.passwords["alice"], password_hash)
    assert not pki.layout.password("alice").exists()


def test_the_same_again_writes_nothing(pki: Pki) -> None:
    issue_to(pki, "carol", Role.VIEWER, "correct horse")
    before = pki.layout.users.stat()
    assert issue_to(pki, "carol", Role.VIEWER, "correct horse").made == []
    assert pki.layout.users.stat() == before


def test_the_only_administrator_stays_one(pki: Pki) -> None:
    with pytest.raises(PkiError, match="admin is the only administrator"):
        issue_to(pki, "admin", Role.OPERATOR)
    issue_to(pki, "alice", Role.ADMIN)
    issue_to(pki, "admin", Role.OPERATOR)
    assert read_users(pki.layout.users)["admin"].role is Role.OPERATOR


def test_a_folder_without_a_pki_is_told_and_left_alone(tmp_path: Path) -> None:
    with pytest.raises(PkiError, match="holds no PKI yet"):
        issue(tmp_path / "none", "alice", role=Role.VIEWER, now=NOW)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("password", ["", "7 chars", "x" * 1025])
def test_passwords_that_are_short_or_endless_are_refused(pki: Pki, password: str) -> None:
    with pytest.raises(PkiError, match="the password is"):
        issue_to(pki, "carol", Role.VIEWER, password)


def test_nothing_is_issued_by_an_authority_that_has_expired(pki: Pki) -> None:
    with pytest.raises(PkiError, match=r"ca/ca\.crt: has expired on 2036-02-27"):
        issue(pki.root, "carol", role=Role.VIEWER, now=datetime(2036, 3, 1, tzinfo=UTC), cost=LOW_COST)
