"""What others may read or change, or what is damaged, is never called complete: the file is named, and what to do."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobpki import keys
from jobpki.bundle import check_server_bundle
from jobpki.directory import InitResult, initialise, issue
from jobpki.errors import PkiError
from jobpki.examine import examine
from jobpki.layout import Layout
from jobpki.users import Role
from tests.harness.pki import LOW_COST, USERS, Pki, make_pki

NOW = datetime.now(UTC)
SECRETS = [
    "ca/ca.key", "server/tls.key", "health/tls.key", "auth/token.key", "auth/users.json",
    "clients/admin/tls.key", "clients/alice/tls.key", "clients/alice/password",
]  # fmt: skip
PUBLIC = ["ca/ca.crt", "server/ca.crt", "server/tls.crt", "health/ca.crt", "clients/alice/tls.crt"]
FOLDERS = [".", "ca", "server", "health", "clients", "clients/alice", "auth"]
OTHER = 54321  # a user and a group that we are not


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return make_pki(tmp_path / "pki")


def again(root: Path) -> InitResult:
    return initialise(root, now=NOW, users=USERS, cost=LOW_COST)


def jobpki(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobpki.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def refusal(pki: Pki) -> str:
    """What init says; issue says the same, and list tells it and exits 1."""
    with pytest.raises(PkiError) as caught:
        again(pki.root)
    with pytest.raises(PkiError) as other:
        issue(pki.root, "carol", role=Role.VIEWER, now=NOW, cost=LOW_COST)
    assert str(other.value) == str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def mend(said: str) -> None:
    """Does what a message says, as it stands there."""
    command = said.rpartition(" - run: ")[2]
    assert command.startswith(("chmod ", "chown ", "rm ")), said
    subprocess.run(["sh", "-euc", command], check=True, timeout=60)


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(("mode", "may"), [(0o644, "read"), (0o604, "read"), (0o666, "change"), (0o602, "change")])
def test_a_secret_that_everyone_may_read_or_change_is_told_with_the_command_that_closes_it(
    pki: Pki, name: str, mode: int, may: str
) -> None:
    path = pki.root / name
    path.chmod(mode)
    said = refusal(pki)
    assert said == f"{path}: every user of this machine may {may} it (mode {mode:04o}) - run: chmod 0600 {path}"
    mend(said)
    assert again(pki.root).made == []


@pytest.mark.parametrize("name", PUBLIC)
def test_a_certificate_that_everyone_may_change_is_told(pki: Pki, name: str) -> None:
    path = pki.root / name
    path.chmod(0o666)
    said = refusal(pki)
    assert said.startswith(f"{path}: every user of this machine may change it (mode 0666)")
    mend(said)
    assert again(pki.root).made == []


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_into_which_everyone_may_put_files_is_told(pki: Pki, name: str) -> None:
    folder = pki.root / name
    mode = folder.stat().st_mode & 0o777
    folder.chmod(mode | 0o002)
    said = refusal(pki)
    assert said.startswith(f"{folder}: every user of this machine may put files into it")
    mend(said)
    assert folder.stat().st_mode & 0o777 == mode
    assert again(pki.root).made == []


def test_a_folder_above_in_which_everyone_may_rename_is_told_and_a_sticky_one_is_not(tmp_path: Path) -> None:
    pki = make_pki(tmp_path / "above" / "pki")
    (tmp_path / "above").chmod(0o1777)
    assert again(pki.root).made == []
    (tmp_path / "above").chmod(0o777)
    said = refusal(pki)
    assert said.startswith(f"{tmp_path}/above: every user of this machine may put files into it (mode 0777), and so")
    mend(said)
    assert again(pki.root).made == []


@pytest.mark.parametrize("name", [*SECRETS, *PUBLIC])
def test_an_empty_file_is_no_complete_one(pki: Pki, name: str) -> None:
    path = pki.root / name
    os.truncate(path, 0)
    assert refusal(pki).startswith(f"{path}: is empty - ")
    assert path.exists()


@pytest.mark.parametrize("name", ["server/tls.key", "server/tls.crt", "server/ca.crt", "health/tls.key"])
def test_what_the_message_says_brings_an_empty_file_back(pki: Pki, name: str) -> None:
    os.truncate(pki.root / name, 0)
    command = refusal(pki).rpartition("run: ")[2]
    subprocess.run(["sh", "-euc", f'jobpki() {{ {sys.executable} -m jobpki.cli "$@"; }}; {command}'], check=True)
    assert examine(pki.layout) == []
    check_server_bundle(pki.root, now=datetime.now(UTC))


@pytest.mark.parametrize("name", ["ca/ca.key", "server/tls.key", "health/tls.key", "clients/alice/tls.key"])
def test_the_key_of_another_certificate_and_what_is_no_key_are_told(pki: Pki, name: str) -> None:
    path = pki.root / name
    path.write_bytes(keys.to_pem(keys.generate()))
    assert refusal(pki).startswith(f"{path}: is not the key of {path.with_suffix('.crt')}")
    path.write_text("no key\n")
    assert refusal(pki).startswith(f"{path}: is not an unencrypted private key in PEM")


def test_a_link_that_leads_nowhere_is_told_and_not_replaced(pki: Pki) -> None:
    for name in ("auth/token.key", "server/tls.key", "clients/alice/tls.crt"):
        path = pki.root / name
        kept = path.rename(path.with_name("kept"))
        path.symlink_to("gone")
        assert refusal(pki).startswith(f"{path}: is a symbolic link to gone, which is missing")
        assert path.is_symlink()
        path.unlink()
        kept.rename(path)
    assert again(pki.root).made == []


def test_a_link_to_a_file_in_a_folder_of_everyone_is_told(pki: Pki, tmp_path: Path) -> None:
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(0o777)
    path = pki.layout.token_key
    path.rename(public / "token.key")
    path.symlink_to(public / "token.key")
    assert refusal(pki).startswith(f"{public}: every user of this machine may put files into it (mode 0777)")


def test_a_pipe_in_the_place_of_a_key_is_told_and_not_waited_for(pki: Pki) -> None:
    pki.layout.token_key.unlink()
    os.mkfifo(pki.layout.token_key, 0o600)
    assert refusal(pki).startswith(f"{pki.layout.token_key}: is not a regular file")


def test_list_tells_every_fault_and_exits_1(pki: Pki) -> None:
    (pki.root / "ca/ca.key").chmod(0o644)
    (pki.root / "auth/users.json").chmod(0o666)
    os.truncate(pki.root / "clients/alice/tls.key", 0)
    listed = jobpki("list", "--dir", str(pki.root))
    assert listed.returncode == 1
    assert "alice" in listed.stdout
    told = listed.stderr.splitlines()
    assert [line.split(": ")[1] for line in told] == [
        str(pki.root / name) for name in ("ca/ca.key", "auth/users.json", "clients/alice/tls.key")
    ]
    said = jobpki("init", "--dir", str(pki.root))
    assert said.returncode == 1
    assert "complete" not in said.stdout
    assert said.stderr.count("\n") == 1
    assert f"(2 more: jobpki list --dir {pki.root})" in said.stderr
    for line in told[:2]:
        mend(line)
    as_json = jobpki("list", "--dir", str(pki.root), "-o", "json")
    assert as_json.returncode == 1
    assert '"kind": "file"' in as_json.stdout


def test_nothing_is_open_to_others_with_a_umask_of_0(tmp_path: Path) -> None:
    program = (
        "import os, sys; os.umask(0); sys.argv[1:] = ['init', '--dir', 'a/b/pki', '--user', 'alice']; "
        "from jobpki.cli import main; main()"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL, timeout=60)
    assert [str(p) for p in (tmp_path / "a").rglob("*") if p.stat().st_mode & 0o022] == []
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "a/b/pki").stat().st_mode & 0o777 == 0o711
    assert examine(Layout(tmp_path / "a/b/pki")) == []


def test_a_path_with_a_space_is_quoted_in_the_command(tmp_path: Path) -> None:
    pki = make_pki(tmp_path / "my pki")
    pki.layout.ca_key.chmod(0o644)
    assert refusal(pki).endswith(f"chmod 0600 {shlex.quote(str(pki.layout.ca_key))}")
    mend(refusal(pki))
    assert again(pki.root).made == []


def as_kubernetes_mounts(secret: Path, files: dict[str, bytes], *, gid: int) -> None:
    """A Secret's volume: files of root, mode 0440, for a group; links lead through `..data` to them."""
    secret.mkdir()
    real = secret / "..2026_01_01_00_00_00.1"
    real.mkdir()
    for name, content in files.items():
        (real / name).write_bytes(content)
        (real / name).chmod(0o440)
        os.chown(real / name, 0, gid)
        (secret / name).symlink_to(f"..data/{name}")
    (secret / "..data").symlink_to(real.name)


# Checks a folder as the user of the pod sees it: another one than root, in the volumes' group.
_AS_ANOTHER_USER = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
uid, gid = int(sys.argv[2]), int(sys.argv[3])
from jobpki.bundle import check_server_bundle
from jobpki.examine import examine
from jobpki.layout import Layout
from jobworker.server.identity.gate import Identity
os.setgroups([gid]); os.setgid(gid); os.setuid(uid)
root = Path(sys.argv[1])
tls = check_server_bundle(root, now=datetime.now(UTC))
clocks = {"clock": lambda: 0, "monotonic": lambda: 0}
out = root / 'logged-out.json'
domain = tls.trust_domain
Identity(pki=root, logged_out=out, trust_domain=domain, token_lifetime_seconds=60, on_problem=print, **clocks).close()
for fault in examine(Layout(root)):
    print(fault)
"""


def seen_by(folder: Path, *, uid: int, gid: int) -> str:
    command = [sys.executable, "-c", _AS_ANOTHER_USER, str(folder), str(uid), str(gid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr


@pytest.fixture
def passable(tmp_path: Path) -> Path:
    """A folder that other users may pass through to."""
    for above in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        above.chmod(0o711)
    return tmp_path


@pytest.mark.root
def test_secrets_of_kubernetes_are_taken_as_they_are_mounted(pki: Pki, passable: Path) -> None:
    mounted = passable / "mounted"
    mounted.mkdir(mode=0o755)
    for folder in ("server", "auth"):
        files = {p.name: p.read_bytes() for p in (pki.root / folder).iterdir()}
        as_kubernetes_mounts(mounted / folder, files, gid=OTHER)
    assert seen_by(mounted, uid=OTHER, gid=OTHER) == ""
    (mounted / "auth" / "token.key").chmod(0o444)
    assert "every user of this machine may read it (mode 0444)" in seen_by(mounted, uid=OTHER, gid=OTHER)


@pytest.mark.root
def test_a_volume_that_is_given_to_a_group_is_taken_as_it_is(pki: Pki, passable: Path) -> None:
    """As the kubelet does it for fsGroup: files 0660, folders 2770, all of the group."""
    for path in [pki.root, *pki.root.rglob("*")]:
        os.chown(path, OTHER, OTHER + 1)
        path.chmod(0o2770 if path.is_dir() else 0o660)
    assert seen_by(pki.root, uid=OTHER, gid=OTHER + 1) == ""


@pytest.mark.root
def test_the_root_of_a_volume_may_be_open_and_what_lies_in_it_may_not(pki: Pki, passable: Path) -> None:
    """An emptyDir of Kubernetes has the mode 0777, for its pod alone."""
    volume = passable / "volume"
    volume.mkdir(mode=0o755)
    jobpki = f"{sys.executable} -m jobpki.cli"
    script = f"""
        mount -t tmpfs -o mode=0777 volume {volume}
        {jobpki} init --dir {volume} >&2
        stat -c %a {volume} {volume}/auth
        {jobpki} init --dir {volume}
        chmod o+w {volume}/auth
        {jobpki} init --dir {volume} 2>&1 || echo refused
    """
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", script], capture_output=True, text=True, check=True, timeout=60
    )
    told = done.stdout.splitlines()
    assert told[:3] == ["777", "700", f"{volume} is complete (trust domain jobworker): nothing to do"]
    assert told[3].startswith(f"jobpki: {volume}/auth: every user of this machine may put files into it")
    assert told[4] == "refused"


@pytest.mark.root
def test_another_group_than_the_volumes_has_no_part_in_it(pki: Pki, passable: Path) -> None:
    for path in [pki.root, *pki.root.rglob("*")]:
        os.chown(path, OTHER, OTHER)
    pki.layout.token_key.chmod(0o640)
    assert f"{pki.layout.token_key}: its group {OTHER} may read it (mode 0640)" in seen_by(
        pki.root, uid=OTHER, gid=OTHER
    )
    pki.layout.token_key.chmod(0o600)
    pki.layout.users.chmod(0o620)
    assert f"{pki.layout.users}: its group {OTHER} may change it (mode 0620)" in seen_by(pki.root, uid=OTHER, gid=OTHER)


@pytest.mark.root
def test_a_file_of_another_user_is_told_and_a_bundle_that_was_given_away_is_left_to_its_user(pki: Pki) -> None:
    for path in [pki.client("alice"), *pki.client("alice").iterdir()]:
        os.chown(path, OTHER, OTHER)
    assert again(pki.root).made == []
    os.chown(pki.layout.users, OTHER, OTHER)
    said = refusal(pki)
    assert said.startswith(f"{pki.layout.users}: belongs to {OTHER}, who may change it - run: chown ")
    mend(said)
    assert again(pki.root).made == []
