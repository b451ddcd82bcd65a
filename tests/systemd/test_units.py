"""The systemd units: accepted by systemd, hardened, and wired as the server and the executor need it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from jobworker.executor.bundle import NAME
from jobworker.executor.options import options_of
from jobworker.server.config.model import Settings

pytestmark = pytest.mark.systemd
FOLDER = Path(__file__).parents[2] / "docker" / "systemd"
# systemd-analyze's exposure, from 0 to 10, times ten. The executor's jobs may be any program, and use the network.
EXPOSURE_AT_MOST = {"jobworker-pki": 10, "jobworker-renewal": 10, "jobworker-server": 18, "jobworker-executor": 40}


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, naming programs that this machine has."""
    for unit in (*FOLDER.glob("*.service"), *FOLDER.glob("*.timer")):
        text = re.sub(r"/opt/jobworker/bin/\w+|/usr/bin/python3", "/bin/true", unit.read_text())
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def test_systemd_takes_every_unit(units: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", *sorted(units.glob("jobworker-*"))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "jobworker" in line]
    assert ours == []
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", EXPOSURE_AT_MOST)
def test_every_unit_is_hardened(units: Path, name: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE_AT_MOST[name]}",
         str(units / f"{name}.service")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-300:]


def test_systemd_takes_users_and_folders(tmp_path: Path) -> None:
    for folder in ("etc", "run"):
        (tmp_path / folder).mkdir()
    subprocess.run(["systemd-sysusers", "--root", tmp_path, FOLDER / "sysusers.conf"], check=True)
    users = (tmp_path / "etc" / "passwd").read_text()
    assert "jobworker:x:10001:" in users
    assert "jobworker-executor:x:10002:" in users
    subprocess.run(["systemd-tmpfiles", "--create", "--root", tmp_path, FOLDER / "tmpfiles.conf"], check=True)
    assert (tmp_path / "run" / "jobworker").stat().st_uid == 10001
    assert (tmp_path / "etc" / "jobworker" / "pki").stat().st_mode & 0o777 == 0o711


def test_the_executor_takes_its_command_line_and_the_server_expects_it_there() -> None:
    executor = (FOLDER / "jobworker-executor.service").read_text().replace("\\\n", " ")
    server = (FOLDER / "jobworker-server.service").read_text()
    found = re.search(r"^ExecStart=(.*)", executor, re.MULTILINE)
    assert found is not None
    assert found.group(1).endswith(" $OPTIONS")
    assert "\nEnvironment=OPTIONS=\n" in executor
    words = found.group(1).split()[:-1]
    assert Path(words[3]).name == NAME
    options = options_of(words[4:])
    assert f"JOBWORKER_EXECUTOR__SOCKET={options.connect}" in server
    assert str(Path(options.connect).parent) in options.hide
    assert options.work == f"/var/lib/{state_folder(executor)}"
    ports = [str(port) for port in options.closed_port]
    assert re.findall(r"^SocketBindDeny=tcp:(\d+)$", executor, re.MULTILINE) == ports
    settings = Settings()
    assert options.closed_port == [settings.grpc.port, settings.rest.port, settings.metrics.port]
    for folder in re.findall(r"JOBWORKER_PATHS__\w+=(\S+)", server):
        assert any(folder.startswith(hidden) for hidden in options.hide), folder


def state_folder(unit: str) -> str:
    """What systemd makes below /var/lib."""
    found = re.search(r"^StateDirectory=(\S+)$", unit, re.MULTILINE)
    assert found is not None
    return found.group(1)
