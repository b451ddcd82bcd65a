"""jobpki's own audit log: each change, and no secret."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobpki.accounts import disable, enable, log_out, remove, set_password
from jobpki.directory import initialise, issue
from jobpki.errors import PkiError
from jobpki.issued import read_issued
from jobpki.layout import Layout
from jobpki.renewal import renew_due, renew_one
from jobpki.revocation import REASONS
from jobpki.revoking import revoke, revoke_tokens
from jobpki.rotation import finish, finish_token_key, prepare, rotate_token_key, switch
from jobpki.users import Role
from tests.harness.audit import lines, verify
from tests.harness.pki import LOW_COST, Pki, make_pki


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return make_pki(tmp_path / "pki")


def after(root: Path, begin: int) -> list[tuple[str, str | None]]:
    """What was done since, and to whom."""
    return [(line["what"], line.get("subject")) for line in lines(root)[begin:]]


def test_each_change_has_a_line_and_the_chain_is_whole(pki: Pki) -> None:
    root, now = pki.root, datetime.now(UTC)
    told = {line["what"] for line in lines(root)}
    assert told == {"authority.make", "certificate.issue", "token_key.make", "user.add"}
    assert {line["subject"] for line in lines(root, what="user.add")} == {f"user/{name}" for name in pki.passwords}
    issued = {f"{entry.serial:x}" for entry in read_issued(Layout(root).issued)}
    assert {line["serial"] for line in lines(root, what="certificate.issue")} == issued

    count = len(lines(root))
    issue(root, "eve", role=Role.VIEWER, now=now, cost=LOW_COST)
    issue(root, "eve", role=Role.OPERATOR, now=now, password="correct horse", cost=LOW_COST)
    set_password(root, "eve", "battery staple", cost=LOW_COST)
    log_out(root, "eve", now=now)
    revoke_tokens(root, ["A" * 22], now=now)
    disable(root, "eve")
    enable(root, "eve")
    revoke(root, "eve", reason=REASONS["key-compromise"], now=now)
    remove(root, "eve", now=now)
    eve = "user/eve"
    assert after(root, count) == [
        ("certificate.issue", eve), ("user.add", eve), ("user.change", eve), ("user.passwd", eve),
        ("user.logout", eve), ("token.revoke", None), ("user.disable", eve), ("user.enable", eve),
        ("certificate.revoke", None), ("user.remove", eve),
        ("bundle.remove", eve),
    ]  # fmt: skip
    (revoked,) = lines(root, what="certificate.revoke")
    assert revoked["serials"] == [lines(root, what="certificate.issue", subject=eve)[0]["serial"]]
    assert revoked["cause"] == "keyCompromise"
    assert lines(root, what="user.change")[0]["role"] == "operator"

    count = len(lines(root))
    renew_one(root, "alice", now=now)
    prepare(root, now=now)
    switch(root, now=now)
    finish(root, now=now)
    rotate_token_key(root)
    finish_token_key(root)
    did = [what for what, _ in after(root, count) if what != "certificate.issue"]
    assert did == ["authority.prepare", "authority.switch", "authority.finish", "token_key.rotate", "token_key.finish"]
    assert all(line["os_user"] for line in lines(root))
    assert verify(root).returncode == 0


def test_a_run_that_changes_nothing_writes_nothing(pki: Pki) -> None:
    before = (pki.root / "audit.jsonl").read_bytes()
    now = datetime.now(UTC)
    initialise(pki.root, now=now, cost=LOW_COST)
    enable(pki.root, "alice")
    renew_due(pki.root, now=now)
    finish_token_key(pki.root)
    with pytest.raises(PkiError):
        disable(pki.root, "admin")
    assert (pki.root / "audit.jsonl").read_bytes() == before


def test_no_password_is_in_it(pki: Pki) -> None:
    set_password(pki.root, "alice", "correct horse battery", cost=LOW_COST)
    made = set_password(pki.root, "bob", None, cost=LOW_COST).password
    text = (pki.root / "audit.jsonl").read_text()
    for password in ("correct horse battery", made, *pki.passwords.values()):
        assert password is not None
        assert password not in text
    assert "argon2" not in text
    assert "PRIVATE" not in text


def test_it_is_for_its_owner_alone(pki: Pki) -> None:
    assert (pki.root / "audit.jsonl").stat().st_mode & 0o777 == 0o600
