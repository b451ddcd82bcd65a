"""What the service makes is closed to other users, and what of its keys is open to them keeps it from starting."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.pki import make_pki
from tests.harness.service import Service, running
from tests.harness.wait import until

EX_CONFIG = 78
_WITH_UMASK_0 = (
    "import os, sys; os.umask(0); sys.argv[:] = ['jobworker', 'run']; from jobworker.server.cli import main; main()"
)


@pytest.fixture
def stopped(tmp_path: Path) -> Service:
    """A service that was not started yet, with a PKI."""
    service = Service(tmp_path / "service")
    service.passwords = make_pki(service.pki).passwords
    return service


def start(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Starts it, which is refused."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        fd = theirs.fileno()
        return subprocess.run(
            [sys.executable, "-m", "jobworker.server.cli", *(arguments or ("server", "--executor-fd", str(fd)))],
            env=service.environment(), pass_fds=[fd], capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip


@pytest.mark.parametrize("how", ["run", "server"])
@pytest.mark.parametrize("mode", [0o644, 0o602])
@pytest.mark.parametrize("name", ["server/tls.key", "auth/token.key", "auth/users.json", "ca/ca.key"])
def test_it_does_not_start_with_a_secret_that_everyone_may_read_or_change(
    stopped: Service, name: str, mode: int, how: str
) -> None:
    path = stopped.pki / name
    path.chmod(mode)
    refused = start(stopped, *(["run"] if how == "run" else []))
    assert refused.returncode == EX_CONFIG
    may = "read" if mode & 0o004 else "change"
    assert refused.stderr == (
        f"jobworker: {path}: every user of this machine may {may} it (mode {mode:04o}) - run: chmod 0600 {path}\n"
    )


def test_it_does_not_start_when_everyone_may_put_another_users_file_in_the_place_of_its_own(stopped: Service) -> None:
    (stopped.pki / "auth").chmod(0o777)
    refused = start(stopped)
    assert refused.returncode == EX_CONFIG
    assert f"run: chmod go-w {stopped.pki / 'auth'}" in refused.stderr


def test_a_users_file_that_is_opened_to_all_while_it_runs_is_told_and_no_longer_followed(service: Service) -> None:
    users = service.pki / "auth/users.json"
    api = service.api()
    users.chmod(0o666)
    users.write_text(users.read_text().replace('"operator"', '"admin"'))
    api.submit("true")
    log = service.folder / "logs/service.jsonl"
    until(lambda: "every user of this machine may change it" in log.read_text(), "the problem is told")
    status = subprocess.run(
        [sys.executable, "-m", "jobpki.cli", "list", "--dir", str(service.pki)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert status.returncode == 1
    users.chmod(0o600)


@pytest.fixture
def with_umask_0(tmp_path: Path) -> Iterator[Service]:
    """A service that was started with a umask that closes nothing, into folders that are not there."""
    service = Service(tmp_path / "open" / "var")
    service.folder.mkdir(parents=True)
    output = (tmp_path / "output").open("wb")
    settings = {
        f"JOBWORKER_PATHS__{name.upper()}": str(tmp_path / "made" / name) for name in ("data", "logs", "pki", "run")
    }
    process = subprocess.Popen(
        [sys.executable, "-c", _WITH_UMASK_0], env={**service.environment(), **settings}, stdin=subprocess.DEVNULL,
        stdout=output, stderr=subprocess.STDOUT,
    )  # fmt: skip
    service.folder = tmp_path / "made"
    try:
        until((service.folder / "run/control.sock").exists, "it runs")
        yield service
    finally:
        process.terminate()
        process.wait(60)
        output.close()


def test_nothing_that_it_makes_is_open_to_others_with_a_umask_of_0(with_umask_0: Service) -> None:
    service = with_umask_0
    service.passwords = {"admin": (service.pki / "clients/admin/password").read_text().strip()}
    api = service.api("admin")
    batch = api.submit(*["echo one"] * 3)
    api.wait(batch)
    until(lambda: any((service.data / "batches").rglob("results.jsonl")), "it is moved")
    api.close()
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in [service.folder, *service.folder.rglob("*")]}
    assert [str(path) for path, mode in modes.items() if mode & 0o022] == []
    assert modes[service.folder] == 0o755
    for name in ("data", "logs", "run"):
        assert modes[service.folder / name] == 0o700
        # Within, the executor's program alone is for others to read, as it is anywhere.
        inside = {p: mode for p, mode in modes.items() if p.is_relative_to(service.folder / name)}
        assert [str(p) for p, mode in inside.items() if mode & 0o077 and p.name != "executor.pyz"] == []
    assert modes[service.folder / "logs/service.jsonl"] == 0o600


def test_a_log_that_was_left_open_is_closed_and_a_groups_part_in_it_stays(tmp_path: Path) -> None:
    logs = tmp_path / "service/logs"
    logs.mkdir(parents=True)
    for name, mode in (("service.jsonl", 0o644), ("service.jsonl.1", 0o646), ("service.jsonl.2", 0o604)):
        (logs / name).touch()
        (logs / name).chmod(mode)
    with running(tmp_path / "service"):
        found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in logs.iterdir()}
    audit = found.pop("audit.jsonl")
    assert found == {"service.jsonl": 0o640, "service.jsonl.1": 0o640, "service.jsonl.2": 0o600}
    assert audit == 0o600


@pytest.mark.root
def test_a_logs_folder_that_is_given_to_a_group_has_files_that_the_group_may_read(tmp_path: Path) -> None:
    logs = tmp_path / "service/logs"
    logs.mkdir(parents=True)
    os.chown(logs, -1, 54321)
    logs.chmod(0o2750)
    with running(tmp_path / "service", LOGS__MAX_BYTES="65536", LOG_LEVEL="debug") as service:
        api = service.api()
        for _ in range(3):
            api.wait(api.submit(*["true"] * 300))
        until((logs / "service.jsonl.1").exists, "it is rotated")
        for name in ("service.jsonl", "service.jsonl.1"):
            status = (logs / name).stat()
            assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o640, 54321)


def test_the_executors_program_is_never_for_others_to_write(tmp_path: Path) -> None:
    """A link in its way leads nowhere else, and a umask of 0 opens nothing."""
    program = (
        "import os, sys; os.umask(0); from jobworker.executor import bundle\n"
        "os.symlink('elsewhere', f'{sys.argv[1]}.{os.getpid()}'); bundle.build(sys.argv[1])"
    )
    target = tmp_path / "executor.pyz"
    subprocess.run([sys.executable, "-c", program, str(target)], check=True, timeout=60)
    assert [path.name for path in tmp_path.iterdir()] == ["executor.pyz"]
    assert stat.S_IMODE(target.lstat().st_mode) == 0o644
