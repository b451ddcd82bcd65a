"""How the service starts and stops, and what it says when it cannot."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from jobworker.v1 import job_pb2
from tests.harness.pki import make_pki
from tests.harness.service import Api, Service, running
from tests.harness.wait import alive, children, until

T = TypeVar("T")
EX_CONFIG = 78


def jobworker(service: Service, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end; what it says goes to standard error."""
    environment = {**service.environment(), **{f"JOBWORKER_{k}": v for k, v in settings.items()}}
    service.folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "jobworker.server.cli", *(arguments or ("run",))],
        env=environment, cwd=service.folder, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def refuses(service: Service, *words: str, arguments: tuple[str, ...] = (), **settings: str) -> None:
    """It does not start, and one line has all of the words; beside it, only the ends of the parts are told."""
    result = jobworker(service, *arguments, **settings)
    said = (result.stdout + result.stderr).splitlines()
    telling = [line for line in said if all(word in line for word in words)]
    assert len(telling) == 1, said
    assert telling[0].startswith("jobworker: ")
    assert not [line for line in said if "Traceback" in line or 'File "' in line or "Error:" in line]
    assert len([line for line in said if line.startswith("jobworker: ") and " ended with " not in line]) == 1
    assert result.returncode == EX_CONFIG


@pytest.fixture
def stopped(tmp_path: Path) -> Service:
    """A service that was not started yet, with a PKI."""
    service = Service(tmp_path / "service")
    service.passwords = make_pki(service.pki).passwords
    return service


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Service]:
    """A service that runs."""
    with running(tmp_path / "first") as service:
        yield service


# The first start


def test_the_first_start_makes_a_pki_and_tells_the_password_once(tmp_path: Path) -> None:
    service = Service(tmp_path / "service")
    service.pki.mkdir(parents=True)  # so that the harness makes none
    try:
        service.start()
        password = (service.pki / "clients/admin/password").read_text().strip()
        assert service.output().count(password) == 1
        assert f"jobworker: made user admin, password: {password}\n" in service.output()
        assert service.output().count("password") == 1
        service.passwords = {"admin": password}
        admin = service.api("admin")
        assert admin.wait(admin.submit("true")).counts.succeeded == 1
        log = (service.folder / "logs/service.jsonl").read_text()
        assert password not in log
        for secret in ("ca/ca.key", "auth/token.key", "auth/users.json", "server/tls.key", "clients/admin/password"):
            assert (service.pki / secret).stat().st_mode & 0o777 == 0o600
        assert service.stop() == 0
        service.start()
        assert service.output().count(password) == 1
        service.api("admin")
    finally:
        service.stop()


# What it cannot start on


def expired(service: Service) -> None:
    """A server bundle of long ago, by the same authority's hand."""
    shutil.rmtree(service.pki)
    make_pki(service.pki, now=datetime.now(UTC) - timedelta(days=366))


def foreign(service: Service) -> None:
    """The certificate and key of another authority's server."""
    other = make_pki(service.folder.parent / "other").root
    for name in ("tls.crt", "tls.key"):
        shutil.copy(other / "server" / name, service.pki / "server" / name)


def of_a_client(service: Service) -> None:
    """A client's certificate where the server's should be."""
    for name in ("tls.crt", "tls.key"):
        shutil.copy(service.pki / "clients/alice" / name, service.pki / "server" / name)


def other_key(service: Service) -> None:
    """A key that is not the certificate's."""
    shutil.copy(service.pki / "clients/alice/tls.key", service.pki / "server/tls.key")


def overwrite(name: str, content: str) -> Callable[[Service], None]:
    """A file with something else in it."""
    return lambda service: (service.pki / name).write_text(content) and None  # type: ignore[func-returns-value]


def unlink(name: str) -> Callable[[Service], None]:
    """A file that is gone."""
    return lambda service: (service.pki / name).unlink()


GARBAGE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
UNUSABLE: dict[str, tuple[Callable[[Service], None], str, str]] = {
    "expired": (expired, "server/tls.crt", "has expired on "),
    "foreign": (foreign, "server/tls.crt", "was not issued by the authority"),
    "a client's": (of_a_client, "server/tls.crt", "is not for servers"),
    "another key": (other_key, "server/tls.key", "is not the key of"),
    "no text": (overwrite("server/tls.crt", "garbage"), "server/tls.crt", ""),
    "a broken certificate": (overwrite("server/tls.crt", GARBAGE), "server/tls.crt", "is not a certificate"),
    "a broken authority": (overwrite("server/ca.crt", GARBAGE), "server/ca.crt", "is not a certificate"),
    "a broken key": (overwrite("server/tls.key", "garbage"), "server/tls.key", "is not an unencrypted private key"),
    "a broken token key": (overwrite("auth/token.key", "garbage"), "auth/token.key", "is not an unencrypted"),
    "broken users": (overwrite("auth/users.json", "{"), "auth/users.json", "is not JSON"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_certificate_or_key_that_cannot_be_used_is_named_with_its_reason(stopped: Service, case: str) -> None:
    spoil, file, why = UNUSABLE[case]
    spoil(stopped)
    refuses(stopped, str(stopped.pki / file), why)


@pytest.mark.parametrize("name", ["server/tls.key", "server/tls.crt", "server/ca.crt"])
def test_a_part_of_the_servers_bundle_that_is_missing_is_named(stopped: Service, name: str) -> None:
    """Where the authority is at hand, `run` completes a bundle; the server alone must not."""
    unlink(name)(stopped)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        result = subprocess.run(
            [sys.executable, "-m", "jobworker.server.cli", "server", "--executor-fd", str(theirs.fileno())],
            env=stopped.environment(), pass_fds=[theirs.fileno()], capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert result.returncode == EX_CONFIG
    assert result.stderr.startswith(f"jobworker: {stopped.pki / name}: is missing - ")
    assert result.stderr.endswith(f"jobpki init --dir {stopped.pki}\n")


def test_a_missing_authority_is_no_reason_to_make_another(stopped: Service) -> None:
    shutil.rmtree(stopped.pki / "ca")
    (stopped.pki / "server/tls.key").unlink()
    refuses(stopped, str(stopped.pki))
    assert not (stopped.pki / "ca").exists()


def test_a_port_that_is_taken_is_told(stopped: Service) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        refuses(stopped, f"port {port} on 127.0.0.1 is taken", GRPC__PORT=str(port))


def test_a_data_folder_of_another_server_is_left_alone(started: Service, stopped: Service) -> None:
    api = started.api()
    batch = api.submit("exec sleep 600")
    refuses(stopped, str(started.data), "is in use by another", PATHS__DATA=str(started.data))
    assert api.cancel(batch).counts.cancelled == 1


def test_a_folder_that_cannot_be_one_is_told(stopped: Service, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for name in ("DATA", "LOGS", "RUN", "PKI"):
        refuses(stopped, str(file), **{f"PATHS__{name}": str(file / "below")})


BAD_SETTINGS = {
    "an unknown key": ("[grpc]\nprot = 1\n", "grpc.prot"),
    "an unknown section": ("[nothing]\na = 1\n", "nothing"),
    "a wrong type": ('[jobs]\nrunning = "many"\n', "jobs.running"),
    "too little": ("[limits]\nbatch_jobs = 0\n", "limits.batch_jobs"),
    "a negative time": ("[jobs]\ngrace_seconds = -1\n", "jobs.grace_seconds"),
    "no TOML": ("[grpc\n", ""),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_a_configuration_file_that_is_not_valid_is_named_with_its_key(
    stopped: Service, case: str, tmp_path: Path
) -> None:
    content, key = BAD_SETTINGS[case]
    file = tmp_path / "jobworker.toml"
    file.write_text(content)
    refuses(stopped, str(file), key, arguments=("run", "--config", str(file)))


def test_a_bad_environment_and_a_missing_file_are_named(stopped: Service, tmp_path: Path) -> None:
    refuses(stopped, "jobs.running", JOBS__RUNNING="0")
    refuses(stopped, "jobs.isolation", JOBS__ISOLATION="perhaps")
    refuses(stopped, "log_level", LOG_LEVEL="loud")
    missing = tmp_path / "no.toml"
    refuses(stopped, str(missing), "no such file", arguments=("run", "--config", str(missing)))


# The end


def everything(service: Service) -> list[int]:
    """Every process of a service, jobs too."""
    found = [service.pid]
    for pid in found:
        found += children(pid)
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_in_order(tmp_path: Path, number: int) -> None:
    service = Service(tmp_path / "service").start()
    api = service.api()
    batch = api.submit("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    assert next(api.follow(batch)).data == b"up\n"
    pids = everything(service)
    assert len(pids) >= 5
    os.kill(service.pid, number)
    assert service.stop() == 0
    assert [pid for pid in pids if alive(pid)] == []
    service.start()
    try:
        job = service.api().jobs(batch)[0]
        assert job.end_reason == job_pb2.END_REASON_INTERRUPTED
        log = service.api().log(batch)  # in between some shells tell that their child was terminated
        assert log.startswith(b"up\n")
        assert log.endswith(b"bye\n")
    finally:
        service.stop()


def answered(call: Callable[[], T]) -> T | None:
    """What a call gives; None while there is no server."""
    try:
        return call()
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return None


def test_a_server_that_was_killed_is_started_again(started: Service) -> None:
    api = started.api()
    batch = api.submit("exec sleep 600")
    until(lambda: api.get(batch).counts.running, "it runs")
    executor = started.child("executor")
    for _ in range(3):
        started.kill_server()
        assert until(lambda: answered(lambda: api.get(batch)), "it answers again").counts.running == 1
    assert started.child("executor") == executor
    assert api.cancel(batch).counts.cancelled == 1
    assert "the server ended with signal 9" in started.output()


def test_nothing_is_left_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    service = Service(tmp_path / "service").start()
    api: Api = service.api()
    batch = api.submit("setsid sh -c 'sleep 600 & exec sleep 600'")
    until(lambda: api.get(batch).counts.running, "it runs")
    pids = everything(service)
    os.kill(service.pid, signal.SIGKILL)
    until(lambda: not [pid for pid in pids if alive(pid)], "their end")
    service.stop()
