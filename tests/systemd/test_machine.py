"""docs/systemd.md on a Debian with a live systemd: each section is run as it is shown, and does what it says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import machine as machines
from tests.harness.docs import blocks
from tests.harness.machine import Machine
from tests.harness.service import free_port
from tests.harness.wait import until

pytestmark = [pytest.mark.machine, pytest.mark.root]
UNITS = ("jobworker-server", "jobworker-executor")


def shown(heading: str) -> list[str]:
    """The commands of a section, block by block."""
    return blocks("systemd.md", heading, "sh")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The service, installed as shown, but for ports that are free; admin has logged in."""
    with machines.running(tmp_path_factory.mktemp("machine")) as machine:
        port = free_port()
        keys = {"GRPC__PORT": port, "REST__PORT": free_port(), "METRICS__PORT": free_port()}
        lines = "".join(f"JOBWORKER_{key}={value}\n" for key, value in keys.items())
        machine.run(f"mkdir -p /etc/jobworker; printf '{lines}' >/etc/jobworker/environment")
        machine.environment = {"JOBCTL_SERVER": f"localhost:{port}", "JOBCTL_BUNDLE": "/root/admin"}
        install, log_in = shown("Install")
        machine.run(install)
        until(lambda: "executor attached" in machine.journal(), "an executor")
        machine.run(log_in)
        yield machine


@pytest.fixture
def machine(installed: Machine) -> Machine:
    """It, with both units running, whatever the test before did."""
    installed.run(f"systemctl start {' '.join(UNITS)}")
    return installed


def jobctl(machine: Machine, arguments: str) -> str:
    return machine.run(f"/opt/jobworker/bin/jobctl {arguments}").strip()


def submit(machine: Machine, command: str) -> str:
    """A batch of one job that has printed a line; its CorrelationID."""
    batch = jobctl(machine, f"submit 'echo begun; {command}'").splitlines()[-1]
    until(lambda: "begun" in jobctl(machine, f"logs {batch}"), "its first line")
    return batch


def pids(machine: Machine) -> list[str]:
    """The main processes of server and executor."""
    return [machine.run(f"systemctl show --value --property=MainPID {unit}").strip() for unit in UNITS]


def test_jobs_are_another_user_in_namespaces_and_see_nothing_of_the_server(machine: Machine) -> None:
    assert "isolation:           namespaces" in jobctl(machine, "admin status")
    looks = "id -un; pwd; echo $HOME; ls -A /etc/jobworker; ls -d /run/jobworker /var/l*/jobworker 2>/dev/null"
    said = jobctl(machine, f"run '{looks}; grep CapBnd /proc/self/status; umask; ulimit -n'")
    user, folder, home, *rest = said.split()
    assert user == "jobworker-executor"
    assert folder.startswith("/var/lib/jobworker-jobs/batches/")
    assert home == folder
    assert rest == ["CapBnd:", "0000000000000000", "0022", "1024"]
    for refused in ("/etc/mine", "/opt/mine", "/var/mine", "/srv/mine", "/root/mine"):
        assert jobctl(machine, f"run 'touch {refused} 2>/dev/null || echo refused'") == "refused"
    assert jobctl(machine, "run 'echo a >file && echo b >/tmp/file && cat file /tmp/file'").split() == ["a", "b"]


BIND = """
import socket
for port in (50051, 8443, 9464, 0):
    with socket.socket() as listener:
        try:
            if port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(("127.0.0.1", port))
            print("bound")
        except PermissionError:
            print("refused")
"""


def test_a_job_cannot_take_the_servers_ports(machine: Machine) -> None:
    machine.run(f"cat >/opt/bind.py <<'END'\n{BIND}\nEND")
    assert jobctl(machine, "run 'python3 /opt/bind.py'").split() == ["refused"] * 3 + ["bound"]


def test_what_jobs_may_do(machine: Machine) -> None:
    assert "refused" in jobctl(machine, "run 'cat /srv/data/given || echo refused'")
    machine.run("install -d -o jobworker-executor /srv/results; mkdir /srv/data; echo given >/srv/data/given")
    (more,) = blocks("systemd.md", "What jobs may do", "ini")
    folder = "/etc/systemd/system/jobworker-executor.service.d"
    machine.run(f"mkdir {folder}; cat >{folder}/override.conf <<'END'\n{more}\nEND")
    machine.run("systemctl daemon-reload; systemctl restart jobworker-executor")
    jobctl(machine, "run 'cat /srv/data/given >/srv/results/made'")
    assert machine.run("cat /srv/results/made") == "given\n"
    assert jobctl(machine, "run 'touch /srv/data/mine 2>/dev/null || echo refused'") == "refused"


def test_a_server_that_is_killed_is_started_again_and_jobs_run_on(machine: Machine) -> None:
    server, executor = pids(machine)
    batch = submit(machine, "sleep 4; echo ended")
    machine.run("systemctl kill --signal=KILL jobworker-server")
    until(lambda: pids(machine)[0] not in {server, "0"}, "the next server")
    assert jobctl(machine, f"wait {batch}") == "SUCCEEDED (1: 1 succeeded)"
    assert jobctl(machine, f"logs {batch}") == "begun\nended"
    assert pids(machine)[1] == executor


def test_an_executor_that_is_killed_is_started_again(machine: Machine) -> None:
    executor = pids(machine)[1]
    # In a container on cgroup v1 nobody tells systemd that the group is empty; it may wait for TimeoutStopSec.
    machine.run("systemctl kill --signal=KILL jobworker-executor")
    until(lambda: pids(machine)[1] not in {executor, "0"}, "the next executor")
    assert jobctl(machine, "run 'echo again'") == "again"


def test_upgrade(machine: Machine) -> None:
    server, executor = pids(machine)
    batch = submit(machine, "sleep 20; echo ended")
    of_server, of_executor = shown("Upgrade")
    machine.run(of_server)
    after = pids(machine)
    assert after[0] != server
    assert after[1] == executor
    # The second block waits for the job.
    machine.run(of_executor)
    assert pids(machine)[1] != executor
    assert jobctl(machine, f"logs {batch}") == "begun\nended"
    assert jobctl(machine, "run 'echo new'") == "new"


def test_back_up_and_restore(machine: Machine) -> None:
    kept, cut = submit(machine, "true"), submit(machine, "sleep 600")
    jobctl(machine, f"wait {kept}")
    back_up, restore = shown("Back up and restore")
    machine.run(back_up)
    assert "RUNNING" in jobctl(machine, f"get {cut}")
    lost = submit(machine, "true")
    machine.run(restore)
    until(lambda: "LOST (executor lost)" in jobctl(machine, f"get {cut}"), "the end of what ran")
    assert jobctl(machine, f"logs {kept}") == "begun"
    assert lost not in jobctl(machine, "ls")


def test_rotate(machine: Machine) -> None:
    batch = submit(machine, "sleep 4; echo ended")
    certificate = "cat /etc/jobworker/pki/server/tls.crt"
    before = machine.run(certificate)
    machine.run(*shown("Rotate"))
    assert machine.run(certificate) != before
    assert jobctl(machine, f"wait {batch}") == "SUCCEEDED (1: 1 succeeded)"


def test_after_a_boot_it_runs_and_has_everything(machine: Machine) -> None:
    kept, cut = submit(machine, "true"), submit(machine, "sleep 600")
    jobctl(machine, f"wait {kept}")
    machine.shut_down()
    machine.boot()
    assert jobctl(machine, f"logs {kept}") == "begun"
    assert "INTERRUPTED" in jobctl(machine, f"get {cut}").upper()
    assert jobctl(machine, "run 'echo again'") == "again"


def test_uninstall(machine: Machine) -> None:
    """The last, for nothing is left."""
    machine.run(*shown("Uninstall"))
    assert machine.run("find / -xdev -name '*jobworker*' -not -path '/root*' -not -path '/tmp/*'") == ""
    assert machine.run("systemctl list-units --all --plain --no-legend 'jobworker*'") == ""
    assert machine.run("getent passwd jobworker jobworker-executor || echo none") == "none\n"
