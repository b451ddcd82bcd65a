"""`verify`: each thing that could be wrong is told with its file, its date and the command that mends it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobpki import keys
from jobpki.accounts import disable, set_password
from jobpki.directory import initialise, issue
from jobpki.errors import PkiError
from jobpki.layout import Layout
from jobpki.profiles import Lifetimes
from jobpki.revocation import REASONS
from jobpki.revoking import revoke
from jobpki.rotation import prepare, rotate_token_key
from jobpki.users import Role, read_users, write_users
from jobpki.verify import Verification
from jobworker.server.identity.tls import load_tls
from tests.harness.forge import forge
from tests.harness.pki import LOW_COST, Pki, make_pki

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return make_pki(tmp_path / "pki", now=NOW)


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module is read long before: what is written now would be of the future."""
    monkeypatch.setitem(globals(), "NOW", datetime.now(UTC).replace(microsecond=0))


def faults(pki: Pki, now: datetime | None = None) -> list[str]:
    return [str(fault) for fault in Verification(pki.root, now=now or NOW).faults]


def warnings(pki: Pki, now: datetime | None = None) -> list[str]:
    return [str(warning) for warning in Verification(pki.root, now=now or NOW).warnings]


def mend(said: str) -> None:
    """Does what a message says, as it stands there."""
    command = said.rpartition("run: ")[2]
    program = f'jobpki() {{ {shlex.quote(sys.executable)} -m jobpki.cli "$@"; }}; {command}'
    subprocess.run(["sh", "-euc", program], check=True, timeout=60, stdout=subprocess.DEVNULL)


def test_a_new_pki_has_no_fault(pki: Pki) -> None:
    assert faults(pki) == []
    assert [line for line in warnings(pki) if "is the password of" not in line] == []


def break_key(pki: Pki) -> None:
    (pki.client("alice") / "tls.key").write_bytes(keys.to_pem(keys.generate()))


def break_chain(pki: Pki) -> None:
    other = make_pki(pki.root.parent / "other", now=NOW)
    (pki.client("alice") / "ca.crt").write_bytes(other.layout.ca_certificate.read_bytes())


def break_name(pki: Pki) -> None:
    """Bob's bundle in the place of alice's."""
    for name in ("tls.crt", "tls.key"):
        (pki.client("alice") / name).write_bytes((pki.client("bob") / name).read_bytes())


def break_usage(pki: Pki) -> None:
    for name in ("tls.crt", "tls.key"):
        (pki.layout.server / name).write_bytes((pki.layout.health / name).read_bytes())


def break_trust(pki: Pki) -> None:
    old = (pki.client("alice") / "ca.crt").read_bytes()
    prepare(pki.root, now=NOW)
    (pki.client("alice") / "ca.crt").write_bytes(old)


def break_password(pki: Pki) -> None:
    set_password(pki.root, "alice", "correct horse", cost=LOW_COST)
    pki.layout.password("alice").write_text("another one\n")
    pki.layout.password("alice").chmod(0o600)


def break_mode(pki: Pki) -> None:
    pki.layout.token_key.chmod(0o644)


def break_token_key(pki: Pki) -> None:
    pki.layout.token_key.unlink()


def break_server(pki: Pki) -> None:
    shutil.rmtree(pki.layout.server)


def break_health(pki: Pki) -> None:
    (pki.layout.health / "tls.key").unlink()


def break_revoked(pki: Pki) -> None:
    revoke(pki.root, "alice", reason=REASONS["superseded"], now=NOW)


def break_issued(pki: Pki) -> None:
    pki.layout.issued.write_text("{}")


@pytest.mark.parametrize(
    ("breaking", "file", "why", "is_mended"),
    [
        (break_key, "clients/alice/tls.key", "is not the key of", True),
        (break_chain, "clients/alice/tls.crt", "was not issued by the authority in", True),
        (break_name, "clients/alice/tls.crt", "is of spiffe://jobworker/user/bob, and not of user/alice", True),
        (break_usage, "server/tls.crt", "is not for servers", False),
        (break_trust, "clients/alice/ca.crt", "does not hold the authority CN=jobworker CA ", True),
        (break_password, "clients/alice/password", "is not the password of alice", True),
        (break_mode, "auth/token.key", "every user of this machine may read it (mode 0644)", True),
        (break_token_key, "auth/token.key", "is missing", True),
        (break_server, "server", "is missing", True),
        (break_health, "health/tls.key", "is missing", True),
        (break_revoked, "clients/alice/tls.crt", "is revoked", True),
        (break_issued, "ca/issued.json", "is not a list of certificates", False),
    ],
)
def test_a_fault_is_told_with_its_file_and_what_mends_it(
    pki: Pki, breaking: Callable[[Pki], None], file: str, why: str, *, is_mended: bool
) -> None:
    breaking(pki)
    (said,) = faults(pki)
    assert said.startswith(f"{pki.root / file}: {why}")
    assert " - " in said
    if is_mended:
        mend(said)
        assert faults(pki, datetime.now(UTC)) == []


def test_an_expired_certificate_is_told_with_its_date_and_the_command(tmp_path: Path) -> None:
    pki = Pki(root=tmp_path / "pki", passwords={})
    past = NOW - 400 * DAY
    initialise(pki.root, now=past, users={"server": Role.VIEWER}, cost=LOW_COST)
    end = f"{past + 365 * DAY:%Y-%m-%d %H:%M:%S} UTC"
    wanted = {
        f"{pki.root / folder}/tls.crt: has expired on {end} - run: jobpki renew {name} --dir {pki.root}"
        for folder, name in (
            ("server", "server"), ("health", "health"), ("clients/admin", "admin"), ("clients/server", "user/server"),
        )
    }  # fmt: skip
    said = faults(pki)
    assert set(said) == wanted
    for line in said:
        mend(line)
    assert faults(pki, datetime.now(UTC)) == []


def test_the_server_says_the_same_when_it_starts(tmp_path: Path) -> None:
    initialise(tmp_path, now=NOW - 400 * DAY, cost=LOW_COST)
    with pytest.raises(PkiError, match=r"server/tls\.crt: has expired on 20\d\d-\d\d-\d\d"):
        load_tls(tmp_path, now=NOW)


def test_an_expired_authority_is_told_with_the_command(tmp_path: Path) -> None:
    pki = Pki(root=tmp_path / "pki", passwords={})
    initialise(pki.root, now=NOW - 20 * DAY, lifetimes=Lifetimes(authority=10 * DAY), cost=LOW_COST)
    said = faults(pki)
    assert f"{pki.layout.ca_certificate}: has expired on {NOW - 10 * DAY:%Y-%m-%d %H:%M:%S} UTC - run: " in said[0]
    assert said[0].endswith(f"jobpki rotate-ca prepare --dir {pki.root}")


def test_a_clock_that_is_behind_is_told_with_both_times(pki: Pki) -> None:
    said = faults(pki, NOW - 10 * DAY)
    assert any("was written on" in line and line.endswith("set this machine's clock right") for line in said)
    begin = NOW - timedelta(minutes=5)
    wanted = (
        f"{pki.layout.server}/tls.crt: is not valid before {begin:%Y-%m-%d %H:%M:%S} UTC, "
        f"and the clock says {NOW - 10 * DAY:%Y-%m-%d %H:%M:%S} UTC"
    )
    assert any(line.startswith(wanted) for line in said)


def test_what_is_to_be_known_is_a_warning(pki: Pki, tmp_path: Path) -> None:
    rotate_token_key(pki.root)
    issue(pki.root, "carol", role=None, now=NOW, cost=LOW_COST)
    users = read_users(pki.layout.users)
    write_users(pki.layout.users, {name: user for name, user in users.items() if name != "vic"})
    shutil.rmtree(pki.client("carol"))
    (pki.root / ".new-server-00000000").mkdir()
    forged = forge(pki.root, tmp_path / "forged", "bob")
    shutil.copytree(forged, pki.client("bob"), dirs_exist_ok=True)
    (pki.client("bob") / "tls.key").chmod(0o600)
    said = "\n".join(warnings(pki))
    assert faults(pki) == []
    for wanted in (
        "holds two keys: tokens of the one before are still good - run: jobpki rotate-token-key --finish",
        f"{pki.client('vic')}: is the bundle of nobody who is a user - run: jobpki remove vic",
        "has the user carol, who has no bundle here",
        ".new-server-00000000: is left of a run that was cut off",
        f"{pki.client('bob')}/tls.crt: ends on",
        f"{pki.layout.password('admin')}: is the password of admin",
    ):
        assert wanted in said


def test_a_pki_without_an_administrator_who_may_log_in_is_told(pki: Pki) -> None:
    issue(pki.root, "alice", role=Role.ADMIN, now=NOW, cost=LOW_COST)
    disable(pki.root, "admin")
    users = read_users(pki.layout.users)
    write_users(pki.layout.users, {name: user for name, user in users.items() if name != "alice"})
    (said,) = faults(pki)
    assert "has no administrator who may log in" in said
    mend(said)
    assert faults(pki, datetime.now(UTC)) == []


@pytest.mark.root
def test_a_file_of_another_owner_is_told(pki: Pki) -> None:
    os.chown(pki.layout.users, 54321, 54321)
    (said,) = faults(pki)
    assert said.startswith(f"{pki.layout.users}: belongs to 54321, who may change it - run: chown ")
    mend(said)
    assert faults(pki) == []


def test_another_authoritys_pki_is_verified_without_one(tmp_path: Path) -> None:
    initialise(tmp_path, now=NOW, cost=LOW_COST, certificates=False)
    assert Verification(tmp_path, now=NOW).faults == []
    assert not Layout(tmp_path).ca.exists()


def test_the_command_tells_faults_and_warnings_apart(pki: Pki) -> None:
    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "jobpki.cli", "verify", "--dir", str(pki.root), *more]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    good = run()
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.splitlines()[-1] == f"{pki.root}: no fault"
    pki.layout.token_key.chmod(0o644)
    bad = run()
    assert bad.returncode == 1
    assert bad.stderr.startswith(f"jobpki: {pki.layout.token_key}: every user")
    document = json.loads(run("-o", "json").stdout)
    assert [fault["path"] for fault in document["faults"]] == [str(pki.layout.token_key)]
    assert document["faults"][0]["mend"] == f"run: chmod 0600 {pki.layout.token_key}"
    assert len(document["warnings"]) == 4
