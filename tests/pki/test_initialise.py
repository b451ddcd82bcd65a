"""`initialise`: what it leaves on disk, and that it fills gaps and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobpki.bundle import check_server_bundle
from jobpki.directory import InitResult, initialise
from jobpki.errors import PkiError
from jobpki.passwords import password_matches
from jobpki.users import Role, read_users
from tests.harness.pki import LOW_COST, USERS, Pki, make_pki

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return make_pki(tmp_path / "pki", now=NOW)


def again(root: Path, **options: object) -> InitResult:
    return initialise(root, **({"now": NOW, "users": USERS, "cost": LOW_COST} | options))  # type: ignore[arg-type]


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything of every entry that a change would change."""
    entries: dict[str, tuple[object, ...]] = {}
    for path in [root, *root.rglob("*")]:
        status = path.stat()
        content = path.read_bytes() if path.is_file() else b""
        entries[str(path)] = (content, status.st_mode, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
    return entries


def test_keys_and_secrets_are_closed_to_others_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        root = make_pki(tmp_path / "open").root
    finally:
        os.umask(old)
    modes = {str(p.relative_to(root)): stat.S_IMODE(p.stat().st_mode) for p in root.rglob("*")}
    secrets = {name for name in modes if name.endswith((".key", "password", "users.json"))}
    assert len(secrets) == 1 + 2 + 4 * 2 + 2
    assert {modes[name] for name in secrets} == {0o600}
    assert {modes[n] for n in ("ca", "auth", "server", "health", "clients/admin", "clients/alice")} == {0o700}
    assert modes["clients"] == 0o711
    assert {mode for name, mode in modes.items() if name.endswith(".crt")} == {0o644}


def test_certificates_can_be_read_by_others_even_with_a_narrow_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        root = make_pki(tmp_path / "narrow").root
    finally:
        os.umask(old)
    assert stat.S_IMODE((root / "server/ca.crt").stat().st_mode) == 0o644


def test_a_second_run_changes_nothing_not_even_a_time_stamp(pki: Pki) -> None:
    before = snapshot(pki.root)
    result = again(pki.root)
    assert snapshot(pki.root) == before
    assert result.made == []
    assert result.passwords == {}


def test_the_generated_passwords_work_and_lie_beside_the_bundles(pki: Pki) -> None:
    users = read_users(pki.layout.users)
    assert {name: user.role for name, user in users.items()} == {"admin": Role.ADMIN, **USERS}
    for name, password in pki.passwords.items():
        assert (pki.client(name) / "password").read_text() == f"{password}\n"
        assert password_matches(password, users[name].password_hash)
        assert not password_matches(password + "x", users[name].password_hash)
    assert len(set(pki.passwords.values())) == 4


def test_the_users_file_has_its_documented_form(pki: Pki) -> None:
    document = json.loads(pki.layout.users.read_text())
    assert document["version"] == 1
    assert set(document["users"]["alice"]) == {"role", "password", "created_at"}
    assert document["users"]["alice"]["role"] == "operator"
    assert document["users"]["alice"]["created_at"] == "2026-03-01T12:00:00Z"
    assert document["users"]["alice"]["password"].startswith("$argon2id$v=19$")


def test_by_default_passwords_are_hashed_as_rfc_9106_recommends(tmp_path: Path) -> None:
    initialise(tmp_path, now=NOW)
    assert read_users(tmp_path / "auth/users.json")["admin"].password_hash.startswith("$argon2id$v=19$m=65536,t=3,p=4$")


@pytest.mark.parametrize("gone", ["server", "health", "clients/alice", "clients", "auth/token.key"])
def test_what_is_missing_is_made_and_the_rest_stays(pki: Pki, gone: str) -> None:
    target = pki.root / gone
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    before = snapshot(pki.root)
    again(pki.root)
    after = snapshot(pki.root)
    assert target.exists()
    for path, entry in before.items():
        # The folders above it change, and it is noted what was issued, and done.
        noted = (str(pki.layout.ca), str(pki.layout.issued), str(pki.root / "audit.jsonl"))
        if not target.is_relative_to(path) and path not in noted:
            assert after[path] == entry
    check_server_bundle(pki.root, now=NOW)


def test_a_pki_without_a_health_bundle_whose_authority_key_is_away_stays_usable(pki: Pki) -> None:
    shutil.rmtree(pki.layout.health)
    pki.layout.ca_key.rename(pki.root.parent / "ca.key")
    result = again(pki.root)
    assert result.made == []
    assert any("health" in note and "ca.key" in note for note in result.notes)
    (pki.root.parent / "ca.key").rename(pki.layout.ca_key)
    assert again(pki.root).made == [pki.layout.health]


@pytest.mark.parametrize("gone", ["ca.crt", "tls.crt", "tls.key"])
def test_an_incomplete_bundle_is_made_whole_and_keeps_its_key_and_password(pki: Pki, gone: str) -> None:
    bundle = pki.client("alice")
    key, password = (bundle / "tls.key").read_bytes(), (bundle / "password").read_bytes()
    (bundle / gone).unlink()
    again(pki.root)
    assert {path.name for path in bundle.iterdir()} == {"ca.crt", "tls.crt", "tls.key", "password"}
    assert ((bundle / "tls.key").read_bytes() == key) is (gone != "tls.key")
    assert (bundle / "password").read_bytes() == password


def test_a_lost_users_file_is_made_again_with_the_passwords_beside_the_bundles(pki: Pki) -> None:
    pki.layout.users.unlink()
    assert again(pki.root).passwords == pki.passwords
    assert password_matches(pki.passwords["alice"], read_users(pki.layout.users)["alice"].password_hash)


def test_a_new_user_is_added_and_the_others_stay(pki: Pki) -> None:
    before = read_users(pki.layout.users)
    result = again(pki.root, users={"carol": Role.VIEWER})
    after = read_users(pki.layout.users)
    assert result.passwords.keys() == {"carol"}
    assert after.pop("carol").role is Role.VIEWER
    assert after == before


def test_another_role_or_name_for_what_is_there_is_only_remarked(pki: Pki) -> None:
    before = snapshot(pki.root)
    notes = again(pki.root, users={"alice": Role.ADMIN}, sans=["localhost", "elsewhere.example"]).notes
    assert snapshot(pki.root) == before
    assert any("alice stays operator" in note for note in notes)
    assert any("stays without elsewhere.example" in note for note in notes)


def test_another_trust_domain_is_refused(pki: Pki) -> None:
    with pytest.raises(PkiError, match=r"ca/ca\.crt: is the authority of trust domain jobworker, not other"):
        again(pki.root, trust_domain="other")


def test_the_trust_domain_is_taken_from_the_authority_that_is_there(tmp_path: Path) -> None:
    root = make_pki(tmp_path, now=NOW, trust_domain="example.org").root
    assert again(root, users={"carol": Role.VIEWER}).trust_domain == "example.org"


def test_a_complete_pki_needs_no_authority_at_hand(pki: Pki) -> None:
    shutil.rmtree(pki.layout.ca)
    assert again(pki.root).made == []


def test_without_its_authority_nothing_is_issued_and_no_other_is_made(pki: Pki) -> None:
    shutil.rmtree(pki.layout.ca)
    with pytest.raises(PkiError, match=r"ca/ca\.key: is missing, and .*clients/carol is to be issued with it"):
        again(pki.root, users={"carol": Role.VIEWER})
    shutil.rmtree(pki.layout.server)
    with pytest.raises(PkiError, match=r"/ca: is missing, and client bundles of it are there"):
        again(pki.root)
    assert not pki.layout.ca.exists()


@pytest.mark.parametrize("damaged", ["ca/ca.crt", "ca/ca.key", "auth/users.json"])
def test_a_damaged_file_is_named_and_not_replaced(pki: Pki, damaged: str) -> None:
    path = pki.root / damaged
    path.write_text("damaged\n")
    with pytest.raises(PkiError, match=str(path)):
        again(pki.root, users={"carol": Role.VIEWER})
    assert path.read_text() == "damaged\n"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "Alice", "-x", ".x", "a b", "ä", "a" * 64, "a\n", "a\0"]
)
def test_names_that_are_no_user_names_are_refused_before_anything_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(PkiError, match="is not a user name"):
        initialise(tmp_path / "pki", now=NOW, users={name: Role.VIEWER}, cost=LOW_COST)
    assert not (tmp_path / "pki").exists()


@pytest.mark.parametrize("name", ["a", "0", "a.b_c-d", "a" * 63])
def test_names_of_documented_form_are_taken(tmp_path: Path, name: str) -> None:
    initialise(tmp_path, now=NOW, users={name: Role.VIEWER}, cost=LOW_COST)
    assert (tmp_path / "clients" / name / "tls.crt").exists()


@pytest.mark.parametrize("san", ["", "a b", "-x.example", "x..y", "a_b", "bücher.example", "999.1.1.1/8", "a" * 64])
def test_names_that_no_server_can_have_are_refused(tmp_path: Path, san: str) -> None:
    with pytest.raises(PkiError, match="neither an IP address nor a DNS name"):
        initialise(tmp_path / "pki", now=NOW, sans=[san], cost=LOW_COST)
    assert not (tmp_path / "pki").exists()


def test_admin_cannot_be_less(tmp_path: Path) -> None:
    with pytest.raises(PkiError, match="first administrator"):
        initialise(tmp_path, now=NOW, users={"admin": Role.VIEWER}, cost=LOW_COST)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PkiError, match=r"file/pki: cannot be written \(Not a directory\)"):
        initialise(tmp_path / "file/pki", now=NOW, cost=LOW_COST)
