"""A job of `jobworker run` takes over neither the service's folders, nor its program, nor its ports; and one that makes
processes without end is not the end of another."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobworker.v1 import job_pb2, schedule_pb2
from tests.harness.service import Service, running
from tests.harness.wait import until

PYTHON = shutil.which("python3", path="/usr/bin:/bin:/usr/local/bin") or sys.executable  # also for jobs of a plain user

# Who may write a folder can rename what is in it, and put something else in its place.
TAKE = """
import json, os, sys
taken = []
for place in sys.argv[1:]:
    for act in (
        lambda: os.rename(place, place + ".old"),
        lambda: open(os.path.join(place, "of-a-job"), "w"),
        lambda: os.chmod(place, 0o777),
    ):
        try:
            act()
            taken.append(place)
        except OSError:
            pass
print(json.dumps(taken))
"""

BIND = """
import os, socket, sys, time
ports = list(map(int, sys.argv[2:]))
print("trying", flush=True)
while not os.path.exists(sys.argv[1]):
    for port in ports:
        for options in ((), (socket.SO_REUSEADDR,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)):
            for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, ""), (socket.AF_INET6, "::")):
                with socket.socket(family) as sock:
                    try:
                        for option in options:
                            sock.setsockopt(socket.SOL_SOCKET, option, 1)
                        sock.bind((host, port))
                        print("bound", port, options, flush=True)
                        time.sleep(0.1)
                    except OSError:
                        pass
"""


@pytest.fixture(params=[pytest.param("root", marks=pytest.mark.root), pytest.param("a user", marks=pytest.mark.root)])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """As root's, whose jobs are nobody's; and as that of a plain user, whose jobs are the same user's."""
    place = Path(tempfile.mkdtemp(prefix="jobworker-test-", dir="/srv"))
    place.chmod(0o755)
    made = Service(place / "service")
    made.make_pki()
    prefix: tuple[str, ...] = ()
    if request.param == "a user":
        # It may read what root alone could, Python here.
        prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+dac_read_search")
        prefix += ("--ambient-caps=+dac_read_search",)
        subprocess.run(["chown", "-R", "65534:65534", str(made.folder)], check=True)
    try:
        yield made.start(prefix=prefix)
    finally:
        made.stop()
        shutil.rmtree(place)


def test_a_job_can_replace_no_folder_and_no_program_of_the_service(service: Service) -> None:
    api = service.api()
    root = Path(__file__).parents[2]
    places = [
        service.folder,
        service.folder.parent,
        *service.folder.iterdir(),
        service.folder / "work/tmp",
        root,
        root / "service",
        root / ".venv",
    ]
    places += [Path(sys.prefix), Path(sys.base_prefix), Path.home(), Path("/etc"), Path("/usr/lib"), Path("/")]
    before = sorted(os.listdir(service.folder))
    batch = api.submit(schedule_pb2.JobRequest(argv=[PYTHON, "-I", "-S", "-c", TAKE, *map(str, places)]))
    api.wait(batch)
    assert api.log(batch) == b"[]\n"
    assert sorted(os.listdir(service.folder)) == before
    assert not list(service.folder.rglob("*.pyz"))  # the executor's program is a sealed file in memory


def test_a_job_that_waits_for_the_servers_death_gets_none_of_its_ports(service: Service, scratch: Path) -> None:
    api = service.api()
    stop = scratch / "stop"
    ports = map(str, (service.port, service.rest_port, service.metrics_port))
    batch = api.submit(schedule_pb2.JobRequest(argv=[PYTHON, "-I", "-S", "-c", BIND, str(stop), *ports]))
    until(lambda: api.get(batch).counts.running == 1, "it tries")
    for _ in range(3):
        service.kill_server()
        service.ready()
        assert api.wait(api.submit("true")).counts.succeeded == 1
    stop.touch()
    assert api.wait(batch).counts.succeeded == 1
    assert api.log(batch) == b"trying\n"


def test_the_supervisor_holds_its_ports_when_no_server_lives(service: Service) -> None:
    command = [sys.executable, "-c", BIND, "/proc/self/exe", str(service.port)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "trying\n"
    other = Service(service.folder.with_name("other"), GRPC__PORT=str(service.port))
    other.make_pki()
    with pytest.raises(AssertionError, match=f"grpc: port {service.port} on 127.0.0.1 is taken by another process"):
        other.start()


def test_a_fork_bomb_fails_no_job_of_another_user_and_no_login(tmp_path: Path, scratch: Path) -> None:
    bomb = """
import os, time
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.01)
"""
    with running(tmp_path / "service", JOBS__PROCESSES="250") as service:
        alice, bob = service.api("alice"), service.api("bob")
        bombs = [alice.submit(schedule_pb2.JobRequest(argv=[sys.executable, "-I", "-S", "-c", bomb])) for _ in range(2)]
        for _ in range(5):
            batch = bob.submit("exec echo fine")
            assert bob.wait(batch).counts.succeeded == 1, bob.jobs(batch)
            bob.login("bob", service.passwords["bob"])
        for each in bombs:
            alice.wait(each)
            (job,) = alice.jobs(each)
            assert job.end_reason == job_pb2.END_REASON_PROCESSES


@pytest.mark.parametrize("key", ["data", "logs", "pki", "run"])
def test_jobs_are_not_allowed_to_write_around_the_services_folders(tmp_path: Path, key: str) -> None:
    for place in (tmp_path, tmp_path / key, tmp_path / key / "below"):
        command = [sys.executable, "-m", "jobworker.server.cli", "run"]
        environment = {**os.environ, f"JOBWORKER_PATHS__{key.upper()}": str(tmp_path / key)}
        environment["JOBWORKER_JOBS__WRITABLE"] = f"/nowhere:{place}"
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 78
        assert f"JOBWORKER_JOBS__WRITABLE: jobs.writable: {place} overlaps paths.{key}" in done.stderr


def test_work_folders_do_not_lie_among_the_services_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobworker.server.cli", "run"]
    environment = {
        **os.environ,
        "JOBWORKER_PATHS__DATA": str(tmp_path / "d"),
        "JOBWORKER_PATHS__WORK": str(tmp_path / "d"),
    }
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert "paths.work" in done.stderr
    assert "overlaps paths.data" in done.stderr
