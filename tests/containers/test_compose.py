"""The service in containers, as `docker compose up` makes it: used from outside, attacked from inside."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
from pathlib import Path

import pytest

from jobworker.client import BatchOptions, JobRequest, PasswordLogin
from jobworker.client.sync import Client
from jobworker.v1 import job_pb2, schedule_pb2
from tests.harness.compose import Stack, docker
from tests.harness.pki import shown_certificate
from tests.harness.wait import until

pytestmark = pytest.mark.engine
HERE = Path(__file__).parent


def test_a_client_outside_runs_a_batch_with_the_issued_bundle(stack: Stack) -> None:
    bundle = stack.bundle()
    login = PasswordLogin("admin", (bundle / "password").read_text().strip())
    with Client(address=f"localhost:{stack.port}", bundle=bundle, token=login) as client:
        jobs = [JobRequest(command=f"echo job {n}; id -u") for n in range(20)]
        answer = client.submit(jobs, options=BatchOptions(name="outside"))
        logs: dict[int, bytes] = {}
        for chunk in client.follow(answer.correlation_id):
            logs[chunk.job_index] = logs.get(chunk.job_index, b"") + chunk.data
        assert logs == {n: b"job %d\n10002\n" % n for n in range(20)}
        assert client.wait(answer.correlation_id).state == job_pb2.BATCH_STATE_SUCCEEDED


def test_only_this_machine_reaches_the_published_ports(stack: Stack) -> None:
    ports = stack.inspect("server")["NetworkSettings"]["Ports"]
    published = {port["HostIp"] for bindings in ports.values() if bindings for port in bindings}
    assert published == {"127.0.0.1"}
    assert stack.inspect("executor")["HostConfig"]["NetworkMode"] == "none"


@pytest.mark.parametrize("service", ["pki", "renewal", "server", "executor"])
def test_each_container_has_no_rights_a_read_only_root_and_limits(stack: Stack, service: str) -> None:
    host = stack.inspect(service)["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["ReadonlyRootfs"] is True
    assert host["Memory"] > 0
    assert host["PidsLimit"] > 0


def test_a_certificate_that_is_due_is_renewed_beside_the_running_server(stack: Stack) -> None:
    """It begins five minutes before it was made, as all do, and ends two minutes after."""
    due = (
        "import datetime, pathlib; from jobpki.renewal import renew_one; renew_one(pathlib.Path('/etc/jobworker/pki'), "
    )
    due += "'server', now=datetime.datetime.now(datetime.UTC), lifetime=datetime.timedelta(minutes=2))"
    stack.compose("stop", "renewal")
    stack.compose("run", "--rm", "--no-deps", "--entrypoint", "python", "pki", "-c", due)
    shown = lambda: shown_certificate(stack.port, stack.bundle())  # noqa: E731
    old = stack.execute("server", "cat", "/etc/jobworker/pki/server/tls.crt")
    until(lambda: shown() == ssl.PEM_cert_to_DER_cert(old), "the one that is due is shown")
    stack.compose("start", "renewal")
    until(lambda: shown() != ssl.PEM_cert_to_DER_cert(old), "another one is shown")
    assert "renewed /etc/jobworker/pki/server" in stack.logs("renewal")


def test_the_executor_has_the_sockets_folder_and_nothing_else_of_the_servers(stack: Stack) -> None:
    mounts = {mount["Destination"]: mount["RW"] for mount in stack.inspect("executor")["Mounts"]}
    assert mounts == {"/run/jobworker": False}


def test_the_root_file_system_is_read_only(stack: Stack) -> None:
    for service, path in (("server", "/opt/jobworker/x"), ("executor", "/usr/x"), ("server", "/etc/jobworker/pki/x")):
        refused = docker("exec", "--user", "0", stack.container(service), "sh", "-c", f"touch {path} || echo refused")
        assert refused == "refused\n"


def test_the_password_is_in_no_containers_log(stack: Stack) -> None:
    password = (stack.bundle() / "password").read_text().strip()
    assert password not in stack.logs()
    assert "wrote /etc/jobworker/pki/server" in stack.logs("pki")


def test_the_health_check_tells_a_server_that_serves_from_one_that_does_not(stack: Stack) -> None:
    def health() -> str:
        return str(stack.inspect("server")["State"]["Health"]["Status"])

    until(lambda: health() == "healthy", "healthy")
    assert stack.execute("server", "jobworker", "healthcheck").endswith("SERVING\n")
    # The server stands still: its port takes connections, and nobody answers. A SIGSTOP to PID 1 comes from outside.
    docker("kill", "--signal", "STOP", stack.container("server"))
    try:
        until(lambda: health() == "unhealthy", "unhealthy")
    finally:
        docker("kill", "--signal", "CONT", stack.container("server"))
    until(lambda: health() == "healthy", "healthy again")


def test_a_health_check_that_fails_says_why(stack: Stack) -> None:
    script = "jobworker healthcheck --timeout 2 --address 127.0.0.1:9; echo $?"
    done = subprocess.run(
        ["docker", "exec", stack.container("server"), "sh", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"
    assert done.stderr.startswith("unhealthy: 127.0.0.1:9: UNAVAILABLE")


def test_a_hostile_job_is_refused_everywhere(stack: Stack) -> None:
    api = stack.api()
    secret = api.submit("echo a secret; sleep 30")
    request = schedule_pb2.JobRequest(argv=["sh"], stdin=(HERE / "hostile.sh").read_bytes())
    batch = api.submit(request)
    assert api.wait(batch).state == job_pb2.BATCH_STATE_SUCCEEDED
    lines = api.log(batch).decode().splitlines()
    assert [line for line in lines if line.startswith("ALLOWED")] == []
    tries = re.findall(r"^try ", (HERE / "hostile.sh").read_text(), re.MULTILINE)
    assert sum(line.startswith("refused") for line in lines) == len(tries) > 20
    assert lines[-1] == "survived by the executor"
    assert api.get(secret).counts.running == 1
    api.cancel(secret)
    assert api.wait(api.submit("true")).state == job_pb2.BATCH_STATE_SUCCEEDED


def test_no_descriptor_of_the_executor_is_a_jobs_folder(stack: Stack) -> None:
    api = stack.api()
    folders = [f"/proc/{process}/fd/{fd}" for process in ("self", "thread-self", "1") for fd in range(24)]
    folders += ["/proc/self/cwd/run/jobworker", "/proc/self/root/run/jobworker", "/dev/fd/3"]
    requests = [schedule_pb2.JobRequest(argv=["ls"], cwd=folder) for folder in folders]
    batch = api.submit(*requests, "pwd; echo $HOME")
    api.wait(batch)
    *refused, allowed = api.jobs(batch)
    assert {job.end_reason for job in refused} == {job_pb2.END_REASON_SPAWN_FAILED}
    assert allowed.state == job_pb2.JOB_STATE_SUCCEEDED


def test_a_batch_starts_in_a_folder_of_its_own_which_goes_with_it(stack: Stack) -> None:
    api = stack.api()
    batch = api.submit(
        "pwd; echo $HOME; ls -A; echo kept > file", "cat file", batch=job_pb2.BatchOptions(parallelism=1)
    )
    assert api.wait(batch).state == job_pb2.BATCH_STATE_SUCCEEDED
    assert api.log(batch).decode().split() == [f"/home/jobs/batches/{batch}"] * 2
    assert api.log(batch, 1) == b"kept\n"
    until(lambda: batch not in stack.execute("executor", "ls", "-A", "/home/jobs/batches"), "the end of its folder")


def test_what_jobs_leave_behind_is_reaped_and_no_exit_status_is_lost(stack: Stack) -> None:
    api = stack.api()
    left = "for i in 1 2 3 4 5; do (setsid sh -c 'exit 9' &) ; done; (sleep 0.2 &) ; exit 7"
    batch = api.submit(*[left] * 20, batch=job_pb2.BatchOptions(parallelism=10))
    api.wait(batch)
    assert [job.exit_code for job in api.jobs(batch)] == [7] * 20
    count = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l; ls -d /proc/[0-9]* | wc -l"

    def clean() -> bool:
        zombies, processes = stack.execute("executor", "sh", "-c", count).split()
        return zombies == "0" and int(processes) <= 4  # the executor, and this shell with what it runs

    until(clean, "no zombies, and nothing of the jobs")


@pytest.mark.parametrize("profile", [(), ("--profile", "*")])
def test_the_configuration_is_valid_with_and_without_all_profiles(engine: str, profile: tuple[str, ...]) -> None:
    root = Path(__file__).parents[2]
    services = json.loads(docker("compose", *profile, "config", "--format", "json", cwd=root))["services"]
    assert services.keys() >= {"pki", "renewal", "server", "executor"}
    if not profile:
        assert services.keys() == {"pki", "renewal", "server", "executor"}
