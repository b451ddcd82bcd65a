"""`renew`: what is due, what stays the same, and what never becomes worse; `export`."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from jobpki.bundle import check_bundle, check_server_bundle, load_certificate
from jobpki.directory import initialise, issue
from jobpki.errors import PkiError
from jobpki.export import export
from jobpki.issuing import server_names
from jobpki.profiles import BACKDATE, Lifetimes
from jobpki.renewal import Renewal, renew_due, renew_one
from tests.harness.pki import LOW_COST, Pki, make_pki

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return make_pki(tmp_path / "pki", now=NOW)


def names(renewal: Renewal) -> list[str]:
    return [subject.identity for subject, _ in renewal.done]


def end(folder: Path) -> datetime:
    return load_certificate(folder / "tls.crt").not_valid_after_utc


def test_what_is_past_two_thirds_of_its_life_is_renewed_and_nothing_else(pki: Pki) -> None:
    issue(pki.root, "carol", role=None, now=NOW + 100 * DAY, cost=LOW_COST)
    assert renew_due(pki.root, now=NOW + 243 * DAY).done == []
    everyone = ["server", "health", "user/admin", "user/alice", "user/bob", "user/vic"]
    assert names(renew_due(pki.root, now=NOW + 244 * DAY)) == everyone
    assert renew_due(pki.root, now=NOW + 244 * DAY).done == []
    assert end(pki.client("alice")) == NOW + (244 + 365) * DAY
    check_server_bundle(pki.root, now=NOW + 600 * DAY)


def test_an_expired_certificate_is_renewed_too(pki: Pki) -> None:
    assert "server" in names(renew_due(pki.root, now=NOW + 500 * DAY))
    check_server_bundle(pki.root, now=NOW + 500 * DAY)


def test_a_renewed_bundle_keeps_key_names_password_lifetime_and_what_else_is_in_it(tmp_path: Path) -> None:
    root = tmp_path / "pki"
    lifetimes = Lifetimes(server=90 * DAY, client=30 * DAY)
    initialise(root, now=NOW, sans=["jobs.example", "10.0.0.7"], lifetimes=lifetimes, cost=LOW_COST)
    (root / "clients/admin/config.toml").write_text("mine")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    had = server_names(load_certificate(root / "server/tls.crt"))
    assert names(renew_due(root, now=NOW + 80 * DAY)) == ["server", "health", "user/admin"]
    changed = {str(path.relative_to(root)) for path in before if path.read_bytes() != before[path]}
    assert changed == {"audit.jsonl", "ca/issued.json", "server/tls.crt", "health/tls.crt", "clients/admin/tls.crt"}
    assert server_names(load_certificate(root / "server/tls.crt")) == had
    assert end(root / "server") == NOW + 170 * DAY
    assert end(root / "clients/admin") == NOW + 110 * DAY


def test_one_is_renewed_when_asked_for_with_other_names_lifetime_or_key(pki: Pki) -> None:
    renew_one(pki.root, "server", now=NOW, names=["jobs.example", "::1"], lifetime=10 * DAY)
    server = load_certificate(pki.layout.server / "tls.crt")
    assert [str(name) for name in server_names(server)] == ["jobs.example", "::1"]
    assert server.not_valid_after_utc - server.not_valid_before_utc == 10 * DAY + BACKDATE
    key = (pki.client("alice") / "tls.key").read_bytes()
    renew_one(pki.root, "alice", now=NOW)
    assert (pki.client("alice") / "tls.key").read_bytes() == key
    renew_one(pki.root, "user/alice", now=NOW, new_key=True)
    assert (pki.client("alice") / "tls.key").read_bytes() != key
    with pytest.raises(PkiError, match="only the server's"):
        renew_one(pki.root, "alice", now=NOW, names=["x"])


def test_a_user_who_is_called_like_a_part_is_told_from_it(pki: Pki) -> None:
    issue(pki.root, "server", role=None, now=NOW, cost=LOW_COST)
    assert names(renew_one(pki.root, "user/server", now=NOW)) == ["user/server"]
    assert names(renew_one(pki.root, "server", now=NOW)) == ["server"]


def test_what_ends_with_its_authority_is_not_renewed_for_nothing(pki: Pki) -> None:
    late = NOW + 3640 * DAY
    renew_due(pki.root, now=late)
    before = (pki.layout.server / "tls.crt").read_bytes()
    done = renew_due(pki.root, now=late + 8 * DAY)
    assert done.done == []
    assert (
        f"{pki.layout.server} ends with its authority, on 2036-02-27: `jobpki rotate-ca` makes another one"
        in done.notes
    )
    assert (pki.layout.server / "tls.crt").read_bytes() == before


def test_issue_does_not_cut_a_life_short(tmp_path: Path) -> None:
    """A certificate or key that was lost is made again, for as long as it was to last."""
    root = tmp_path / "pki"
    initialise(root, now=NOW, lifetimes=Lifetimes(client=3000 * DAY), cost=LOW_COST)
    for lost in ("tls.crt", "tls.key"):
        (root / "clients/admin" / lost).unlink()
        issue(root, "admin", role=None, now=NOW + DAY, cost=LOW_COST)
        assert end(root / "clients/admin") == NOW + 3000 * DAY
    certificate = (root / "clients/admin/tls.crt").read_bytes()
    (root / "clients/admin/ca.crt").unlink()
    issue(root, "admin", role=None, now=NOW + 2 * DAY, lifetimes=Lifetimes(client=DAY), cost=LOW_COST)
    assert (root / "clients/admin/tls.crt").read_bytes() == certificate
    assert (root / "clients/admin/ca.crt").read_bytes() == (root / "ca/ca.crt").read_bytes()


def test_watch_renews_what_is_due_tells_it_and_ends_when_told(tmp_path: Path) -> None:
    root = tmp_path / "pki"
    initialise(root, now=datetime.now(UTC) - 300 * DAY, cost=LOW_COST)
    command = [sys.executable, "-m", "jobpki.cli", "renew", "--watch", "--dir", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stdout.read() == ""
    assert [line.split(":")[0] for line in told] == [
        f"renewed {root / name}" for name in ("server", "health", "clients/admin")
    ]
    assert end(root / "server") > datetime.now(UTC) + 300 * DAY


def test_watch_goes_on_where_the_folder_is_not_usable(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobpki.cli", "renew", "--watch", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "holds no PKI yet" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_a_bundle_is_exported_as_one_file_that_makes_a_usable_one(pki: Pki, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "jobpki.cli",
        "export",
        "alice",
        str(tmp_path / "alice.tar"),
        "--dir",
        str(pki.root),
    ]
    subprocess.run(command, check=True, timeout=60)
    assert (tmp_path / "alice.tar").stat().st_mode & 0o777 == 0o600
    subprocess.run(["tar", "-xf", str(tmp_path / "alice.tar"), "-C", str(tmp_path)], check=True, timeout=60)
    folder = tmp_path / "alice"
    assert {path.name for path in folder.iterdir()} == {"ca.crt", "tls.crt", "tls.key"}
    assert [oct(p.stat().st_mode & 0o777) for p in (folder, folder / "tls.key")] == ["0o700", "0o600"]

    check_bundle(folder, usage=ExtendedKeyUsageOID.CLIENT_AUTH, now=NOW)
    done = subprocess.run([*command[:5], "-", *command[6:]], check=True, capture_output=True, timeout=60)
    assert done.stdout == (tmp_path / "alice.tar").read_bytes()


def test_the_password_goes_along_when_asked_for_alone(pki: Pki) -> None:
    with tarfile.open(fileobj=io.BytesIO(export(pki.root, "alice", with_password=True))) as tar:
        file = tar.extractfile("alice/password")
        assert file is not None
        assert file.read().decode() == f"{pki.passwords['alice']}\n"
    assert pki.passwords["alice"].encode() not in export(pki.root, "alice")


def test_a_bundle_that_is_damaged_is_not_exported(pki: Pki) -> None:
    (pki.client("alice") / "tls.key").write_bytes((pki.client("bob") / "tls.key").read_bytes())
    with pytest.raises(PkiError, match=r"clients/alice/tls\.key: is not the key of .* - run: rm "):
        export(pki.root, "alice")
