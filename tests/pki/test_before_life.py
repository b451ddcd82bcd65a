"""A folder that jobpki made before it could revoke, renew and rotate: everything works on it."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobpki.accounts import disable, enable, remove, set_password
from jobpki.bundle import check_server_bundle, load_certificate
from jobpki.directory import initialise
from jobpki.issuing import server_names
from jobpki.layout import Layout
from jobpki.overview import overview
from jobpki.renewal import renew_due, renew_one
from jobpki.revocation import REASONS
from jobpki.revoking import revoke
from jobpki.rotation import finish, finish_token_key, prepare, rotate_token_key, switch
from jobpki.users import Role
from jobpki.verify import Verification
from jobworker.server.identity.gate import Identity
from tests.harness.pki import LOW_COST

NOW = datetime.now(UTC)
USERS = {"alice": Role.OPERATOR, "vic": Role.VIEWER}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """As it was made; version control keeps no modes."""
    root = tmp_path / "pki"
    shutil.copytree(Path(__file__).parent / "before_life", root)
    for path in [root, *root.rglob("*")]:
        if path.is_dir():
            path.chmod(0o711 if path.name in {"pki", "clients"} else 0o700)
        else:
            path.chmod(0o644 if path.suffix == ".crt" else 0o600)
    return root


def test_it_is_complete_without_a_change(root: Path) -> None:
    assert initialise(root, now=NOW, users=USERS, cost=LOW_COST).made == []
    assert Verification(root, now=datetime.now(UTC)).faults == []
    assert {entry.name for entry in overview(root, now=NOW)} == {"ca", "server", "health", "admin", "alice", "vic"}
    assert renew_due(root, now=NOW).done == []


async def test_a_server_starts_on_it_and_logs_its_users_in(root: Path) -> None:
    layout = Layout(root)
    trust_domain = check_server_bundle(root, now=NOW).trust_domain
    clocks = {"clock": NOW.timestamp, "monotonic": lambda: 0.0}
    out = root / "logged-out.json"
    identity = Identity(
        pki=root, logged_out=out, trust_domain=trust_domain, token_lifetime_seconds=60, on_problem=print, **clocks
    )
    try:
        await identity.login(
            certificate_pem=(layout.client("alice") / "tls.crt").read_bytes(),
            username="alice",
            password=layout.password("alice").read_text().strip(),
        )
    finally:
        identity.close()


def test_every_command_works_on_it(root: Path) -> None:
    layout = Layout(root)
    names = server_names(load_certificate(layout.server / "tls.crt"))
    first = load_certificate(layout.client("alice") / "tls.crt").serial_number
    set_password(root, "alice", None, cost=LOW_COST)
    disable(root, "alice")
    enable(root, "alice")
    renew_one(root, "alice", now=NOW, lifetime=timedelta(days=10))
    second = load_certificate(layout.client("alice") / "tls.crt").serial_number
    assert set(revoke(root, "alice", reason=REASONS["superseded"], now=NOW)) == {first, second}
    remove(root, "vic", now=NOW)
    rotate_token_key(root)
    finish_token_key(root)
    for step in (prepare, switch, finish):
        step(root, now=NOW)
    assert server_names(load_certificate(layout.server / "tls.crt")) == names
    faults = Verification(root, now=datetime.now(UTC)).faults
    assert [str(fault.path) for fault in faults] == [str(layout.client("alice") / name) for name in ("tls.crt",)], [
        str(fault) for fault in faults
    ]
