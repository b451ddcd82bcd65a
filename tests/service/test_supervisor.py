"""What the supervisor is refused (a process, descriptors, memory, somebody who reads its messages) ends no job."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from jobworker.v1 import job_pb2
from tests.harness.failcalls import FailCalls
from tests.harness.service import Api, Service
from tests.harness.wait import until

USER = 65533  # a plain user: root may have more processes than its limit says


# What prlimit(1) calls them, and proc(5).
LIMITS = {"nproc": "Max processes", "as": "Max address space", "nofile": "Max open files"}


@pytest.fixture
def a_users(tmp_path: Path) -> Iterator[Service]:
    """A service of a plain user's."""
    if os.geteuid() != 0:
        service = Service(tmp_path / "service").start()
        yield service
        service.stop()
        return
    place = Path(tempfile.mkdtemp(prefix="jobworker-test-"))
    place.chmod(0o755)
    service = Service(place / "service")
    service.make_pki()
    subprocess.run(["chown", "-R", f"{USER}:{USER}", str(service.folder)], check=True)
    prefix = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=+dac_read_search")
    try:
        yield service.start(prefix=(*prefix, "--ambient-caps=+dac_read_search"))
    finally:
        service.stop()
        shutil.rmtree(place)


def limit(pid: int, name: str, soft: int | None) -> None:
    """Sets a soft limit of a process, as its user; None: as high as the hard one."""
    who = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if os.geteuid() == 0 else []
    limits = f"{'' if soft is None else soft}:"
    if soft is None:
        hard = next(
            line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith(LIMITS[name])
        )
        limits = f"{hard.split()[-2]}:"
    subprocess.run([*who, "prlimit", f"--pid={pid}", f"--{name}={limits}"], check=True)


def held(api: Api, scratch: Path) -> tuple[str, Path]:
    """A batch whose job runs until a file is there, and the file."""
    gate = scratch / "gate"
    batch = api.submit(f"until [ -e {gate} ]; do sleep 0.02; done; echo done")
    until(lambda: api.get(batch).counts.running == 1, "it runs")
    return batch, gate


def ends_well(service: Service, batch: str, gate: Path) -> None:
    """The job has lived through it all, and its end comes to a server that answers."""
    gate.touch()
    api = service.api()
    final = api.wait(batch)
    assert final.state == job_pb2.BATCH_STATE_SUCCEEDED
    assert api.log(batch) == b"done\n"


@pytest.mark.parametrize(
    ("name", "soft"),
    [
        pytest.param("nproc", 1, id="processes"),
        pytest.param("as", 1 << 20, id="memory"),
        pytest.param("nofile", 3, id="descriptors"),
    ],
)
def test_a_server_that_cannot_be_started_again_is_tried_until_it_can(
    a_users: Service, scratch: Path, name: str, soft: int
) -> None:
    batch, gate = held(a_users.api(), scratch)
    executor, server = a_users.child("executor"), a_users.child("server")
    limit(a_users.pid, name, soft)
    os.kill(server, signal.SIGKILL)
    until(lambda: "the server cannot be started" in a_users.output(), "it is refused")
    assert a_users.child("executor") == executor
    limit(a_users.pid, name, None)
    ends_well(a_users, batch, gate)
    assert a_users.child("executor") == executor
    assert a_users.output().count("the server cannot be started") == 1
    assert "the server is started again" in a_users.output()
    assert "Traceback" not in a_users.output()


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        ("posix_spawn", errno.ENOENT, "the server cannot be started, and is tried again: No such file or directory"),
        (
            "posix_spawn",
            errno.ENFILE,
            "the server cannot be started, and is tried again: Too many open files in system",
        ),
        ("poll", errno.ENOMEM, "the server ended with signal 9"),
    ],
)
def test_a_call_that_the_kernel_refuses_for_a_while_is_made_again(
    tmp_path: Path, scratch: Path, call: str, error: int, said: str
) -> None:
    calls = FailCalls(tmp_path)
    service = Service(tmp_path / "service", variables=calls.env)
    try:
        service.start()
        batch, gate = held(service.api(), scratch)
        executor = service.child("executor")
        calls.fail(call, error)
        os.kill(service.child("server"), signal.SIGKILL)
        until(lambda: service.output().count(said) == 1 and calls.failed(call) >= 3, "it is tried again")
        calls.mend(call)
        ends_well(service, batch, gate)
        assert service.child("executor") == executor
        assert service.output().count(said) == 1
        assert "Traceback" not in service.output()
    finally:
        assert service.stop() == 0


@contextlib.contextmanager
def outputs(kind: str) -> Iterator[int]:
    """A descriptor that messages are written to in vain."""
    if kind == "a full disk":
        fd = os.open("/dev/full", os.O_WRONLY)
        yield fd
        os.close(fd)
        return
    reading, writing = os.pipe()
    if kind == "a reader that is gone":
        os.close(reading)
    else:  # a reader that reads nothing
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, bytes(4096))
        os.set_blocking(writing, True)
    yield writing
    os.close(writing)
    if kind != "a reader that is gone":
        os.close(reading)


@pytest.mark.parametrize("kind", ["a full disk", "a reader that is gone", "a reader that reads nothing"])
def test_messages_that_go_nowhere_end_and_hold_up_nothing(tmp_path: Path, scratch: Path, kind: str) -> None:
    service = Service(tmp_path / "service")
    service.pki.mkdir(parents=True)  # so that it makes the users itself, and tells the password
    with outputs(kind) as fd:
        service.start(stdout=fd, stderr=fd)
        service.passwords = {"admin": (service.pki / "clients/admin/password").read_text().strip()}
        batch, gate = held(service.api("admin"), scratch)
        executor = service.child("executor")
        for _ in range(3):
            service.kill_server()
            service.ready()
        assert service.child("executor") == executor
        gate.touch()
        api = service.api("admin")
        assert api.wait(batch).state == job_pb2.BATCH_STATE_SUCCEEDED
        assert service.stop() == 0


def test_without_any_standard_descriptor_messages_go_into_no_socket_of_the_services(
    tmp_path: Path, scratch: Path
) -> None:
    service = Service(tmp_path / "service")
    try:
        service.start(prefix=("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"))
        batch, gate = held(service.api(), scratch)
        for pid in (service.pid, service.child("server"), service.child("executor")):
            for fd in (0, 1, 2):
                assert os.readlink(f"/proc/{pid}/fd/{fd}").startswith(("/dev/null", "pipe:"))
        service.kill_server()
        service.ready()
        ends_well(service, batch, gate)
    finally:
        assert service.stop() == 0


def test_a_reader_that_left_after_the_first_line_takes_no_job_along(tmp_path: Path, scratch: Path) -> None:
    service = Service(tmp_path / "service")
    reading, writing = os.pipe()
    head = subprocess.Popen(["head", "-n", "1"], stdin=reading, stdout=subprocess.PIPE)
    os.close(reading)
    service.start(stdout=writing, stderr=writing)
    os.close(writing)
    assert head.communicate()[0].startswith(b"executor: isolation: ")
    try:
        batch, gate = held(service.api(), scratch)
        service.kill_server()
        service.ready()
        ends_well(service, batch, gate)
    finally:
        assert service.stop() == 0


def test_a_server_that_is_told_to_end_with_its_supervisor_is_there_for_the_ends(tmp_path: Path) -> None:
    """As where a service manager signals every process of a service at once."""
    service = Service(tmp_path / "service").start()
    api = service.api()
    batch = api.submit("trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done", "echo up; exec sleep 600")
    for index in (0, 1):
        assert next(api.follow(batch, job_index=[index])).data == b"up\n"
    api.close()
    pids = [service.child("server"), service.pid]
    with contextlib.suppress(grpc.RpcError):
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
    assert service.stop() == 0
    service.start()
    try:
        jobs = service.api().jobs(batch)
        assert [job.end_reason for job in jobs] == [job_pb2.END_REASON_INTERRUPTED] * 2
        assert (jobs[0].exit_code, jobs[1].signal) == (3, signal.SIGTERM)
    finally:
        service.stop()
