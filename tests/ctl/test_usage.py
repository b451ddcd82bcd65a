"""Help, usage and a service that is not there."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jobworker.ctl.durations import format_seconds, parse_seconds
from jobworker.ctl.output import format_bytes
from tests.harness.jobctl import Jobctl
from tests.harness.pki import make_pki

COMMANDS = ["login", "logout", "whoami", "submit", "run", "get", "logs", "wait", "cancel", "ls"]


def test_help_names_every_command_and_the_exit_codes(jobctl: Jobctl) -> None:
    done = jobctl("--help")
    assert done.returncode == 0
    for word in (*COMMANDS, "130  interrupted", "JOBCTL_SERVER", "JOBCTL_BUNDLE"):
        assert word in done.stdout.decode()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(jobctl: Jobctl, command: str) -> None:
    done = jobctl(command, "--help")
    assert (done.returncode, done.stderr) == (0, b"")


def test_help_needs_no_grpc() -> None:
    code = "import sys, jobworker.ctl.cli as c; c.call(['--help']); sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0


def test_the_version_is_the_packages(jobctl: Jobctl) -> None:
    assert jobctl("--version").stdout.startswith(b"jobctl ")


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["run", "--nonsense"], ["get"], ["wait", "-t", "soon", "x"], ["ls", "-o", "xml"]]
)
def test_wrong_usage_is_one_line_and_exit_code_2(jobctl: Jobctl, arguments: list[str]) -> None:
    done = jobctl(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"jobctl: ")
    assert done.stderr.count(b"\n") == 1


def test_without_arguments_it_shows_the_help(jobctl: Jobctl) -> None:
    done = jobctl()
    assert done.returncode == 2
    assert b"Usage: jobctl" in done.stderr + done.stdout


def test_a_service_that_is_not_there_is_exit_code_6(jobctl: Jobctl, tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound and not listening
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = jobctl("login", JOBCTL_SERVER=address, JOBCTL_PASSWORD=jobctl.password)
    assert done.returncode == 6
    assert done.stderr.count(b"\n") == 1
    assert address.encode() in done.stderr


def test_why_there_is_no_connection_is_one_line_with_what_mends_it(jobctl: Jobctl, tmp_path: Path) -> None:
    bundle = shutil.copytree(jobctl.environment["JOBCTL_BUNDLE"], tmp_path / "bundle")
    shutil.copy(make_pki(tmp_path / "other").client("alice") / "ca.crt", bundle)
    done = jobctl("ls", JOBCTL_BUNDLE=str(bundle))
    words = f"the service's certificate is of another authority than those in {bundle}/ca.crt"
    mend = "get the bundle anew, from: jobpki export alice FILE"
    assert done.stderr.decode() == f"jobctl: localhost:{jobctl.service.port}: {words} - {mend}\n"
    assert done.returncode == 6


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5", 1.5), ("1.5s", 1.5), ("250ms", 0.25), ("1h30m", 5400), ("2d", 172800)]
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "1x", "-1", "1h 30m", "nan", "inf", "m"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|range"):
        parse_seconds(text)


def test_durations_and_sizes_are_short() -> None:
    lengths = [0.2512, 12.34, 245.4, 11220, 187200]
    assert [format_seconds(s) for s in lengths] == ["0.25s", "12.3s", "4m05s", "3h07m", "2d04h"]
    sizes = [0, 1023, 1024, 1536, 268435456, 1 << 40]
    assert [format_bytes(n) for n in sizes] == ["0", "1023", "1.0K", "1.5K", "256M", "1.0T"]
