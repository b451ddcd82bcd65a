"""Where another authority issues the certificates, jobpki makes users and the token key alone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobpki.directory import initialise, issue
from jobpki.errors import PkiError
from jobpki.layout import Layout
from jobpki.passwords import password_matches
from jobpki.users import Role, read_users
from tests.harness.pki import LOW_COST


def init(root: Path) -> dict[str, str]:
    return initialise(root, now=datetime.now(UTC), cost=LOW_COST, certificates=False).passwords


def test_users_and_the_token_key_are_made_and_no_authority(tmp_path: Path) -> None:
    passwords = init(tmp_path)
    layout = Layout(tmp_path)
    assert passwords["admin"] == layout.password("admin").read_text().strip()
    assert password_matches(passwords["admin"], read_users(layout.users)["admin"].password_hash)
    assert layout.token_key.exists()
    assert not layout.ca.exists()
    assert not layout.server.exists()
    assert [p.name for p in layout.client("admin").iterdir()] == ["password"]
    assert layout.client("admin").stat().st_mode & 0o077 == 0


def test_a_second_run_makes_nothing(tmp_path: Path) -> None:
    init(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert init(tmp_path) == {}
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_user_is_added_and_changes_its_role(tmp_path: Path) -> None:
    init(tmp_path)
    now = datetime.now(UTC)
    made = issue(tmp_path, "alice", role=Role.VIEWER, now=now, cost=LOW_COST, certificates=False)
    assert "alice" in made.passwords
    issue(tmp_path, "alice", role=Role.OPERATOR, now=now, cost=LOW_COST, certificates=False)
    assert read_users(Layout(tmp_path).users)["alice"].role is Role.OPERATOR


def test_certificates_are_still_refused_without_an_authority_of_its_own(tmp_path: Path) -> None:
    init(tmp_path)
    with pytest.raises(PkiError):
        initialise(tmp_path, now=datetime.now(UTC), cost=LOW_COST)
