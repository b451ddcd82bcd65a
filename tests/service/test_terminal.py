"""`jobworker run` in a terminal: what is typed there comes to the supervisor alone, and every job's end is recorded."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobworker.v1 import job_pb2
from tests.harness.service import Api, Service
from tests.harness.terminal import SHELL, Terminal
from tests.harness.wait import alive, children, until

POLITE = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done"
PLAIN = "echo up; exec sleep 600"
STUBBORN = "trap '' TERM; echo up; while :; do sleep 600; done"


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


@pytest.fixture
def service(tmp_path: Path, terminal: Terminal) -> Iterator[Service]:
    """A service in the foreground of the terminal."""
    made = Service(tmp_path / "service", JOBS__RUNNING="8")
    try:
        yield made.start(**terminal.popen)
    finally:
        made.stop()


def run(api: Api, *jobs: str) -> str:
    """A batch whose jobs run, and have said so."""
    batch = api.submit(*jobs, batch=job_pb2.BatchOptions(parallelism=len(jobs)))
    for index in range(len(jobs)):
        assert next(api.follow(batch, job_index=[index])).data == b"up\n"
    return batch


def after(service: Service, batch: str) -> list[job_pb2.Job]:
    """What became of the jobs, as the next life of the service tells."""
    assert service.stop() == 0
    service.start()
    return service.api().jobs(batch)


def inner(service: Service) -> int:
    """The process that holds the jobs."""
    (pid,) = children(service.child("executor"))
    return pid


def test_after_ctrl_c_every_job_is_interrupted_and_its_exit_recorded(service: Service, terminal: Terminal) -> None:
    api = service.api()
    batch = run(api, *[POLITE] * 3, *[PLAIN] * 3)
    api.close()
    terminal.press("c")
    until(lambda: not alive(service.pid), "its end")
    assert "jobworker: stopping; 6 jobs are being ended (up to 15 s; press Ctrl-C again to kill" in terminal.shown()
    assert "ended with" not in terminal.shown()
    jobs = after(service, batch)
    assert [job.end_reason for job in jobs] == [job_pb2.END_REASON_INTERRUPTED] * 6
    assert [job.exit_source for job in jobs] == [job_pb2.EXIT_SOURCE_WAITED] * 6
    assert [job.exit_code for job in jobs[:3]] == [3] * 3
    assert [job.signal for job in jobs[3:]] == [signal.SIGTERM] * 3


@pytest.mark.parametrize("keys", ["cc", "\\"], ids=["Ctrl-C twice", "Ctrl-backslash"])
def test_jobs_that_take_their_time_are_killed_when_that_is_asked_for(
    service: Service, terminal: Terminal, keys: str
) -> None:
    api = service.api()
    batch = run(api, *[STUBBORN] * 3)
    api.close()
    holder = inner(service)
    jobs = [pid for pid in children(holder) if alive(pid)]
    assert len(jobs) == 3
    os.kill(holder, signal.SIGSTOP)  # so that no grace of the executor's ends them
    terminal.press(keys[0])
    until(lambda: "3 jobs are being ended" in terminal.shown(), "it says what it waits for")
    assert ("again" in terminal.shown()) == (keys == "cc")

    def killed() -> bool:
        if keys == "cc":
            terminal.press("c")  # at first still counts as the same
        return not [pid for pid in jobs if alive(pid)]

    until(killed, "they are killed")
    os.kill(holder, signal.SIGCONT)
    until(lambda: not alive(service.pid), "its end")
    ended = after(service, batch)
    assert [job.end_reason for job in ended] == [job_pb2.END_REASON_INTERRUPTED] * 3
    assert [job.signal for job in ended] == [signal.SIGKILL] * 3


def test_when_the_terminal_is_closed_jobs_are_ended_as_by_ctrl_c(service: Service, terminal: Terminal) -> None:
    api = service.api()
    batch = run(api, POLITE, PLAIN)
    api.close()
    terminal.close()
    until(lambda: not alive(service.pid), "its end")
    jobs = after(service, batch)
    assert [job.end_reason for job in jobs] == [job_pb2.END_REASON_INTERRUPTED] * 2
    assert (jobs[0].exit_code, jobs[1].signal) == (3, signal.SIGTERM)


def state(pid: int) -> str:
    """A letter of proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_ctrl_z_stops_the_supervisor_alone(tmp_path: Path, terminal: Terminal, scratch: Path) -> None:
    service = Service(tmp_path / "service").start(prefix=(sys.executable, "-c", SHELL), **terminal.popen)
    (supervisor,) = children(service.pid)
    api = service.api()
    gate = scratch / "gate"
    held = api.submit(f"until [ -e {gate} ]; do sleep 0.02; done")
    terminal.press("z")
    until(lambda: state(supervisor) == "T", "it stops")
    gate.touch()
    assert api.wait(held).counts.succeeded == 1
    assert api.wait(api.submit("true")).counts.succeeded == 1
    os.kill(supervisor, signal.SIGCONT)
    until(lambda: state(supervisor) == "S", "it goes on")
    (server,) = [pid for pid in children(supervisor) if "--executor-fd" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(server, signal.SIGKILL)
    until(lambda: "the server ended with signal 9" in terminal.shown(), "it is told")
    assert api.wait(api.submit("true")).counts.succeeded == 1
    api.close()
    terminal.press("c")
    until(lambda: not alive(service.pid), "its end")
    assert service.stop() == 0


def test_under_nohup_a_closed_terminal_ends_nothing(tmp_path: Path, terminal: Terminal) -> None:
    service = Service(tmp_path / "service")
    try:
        service.start(prefix=("nohup",), cwd=tmp_path, **terminal.popen)  # it writes nohup.out
        batch = run(service.api(), PLAIN)
        terminal.close()
        os.kill(service.pid, signal.SIGHUP)  # the kernel's own was sent before close(2) returned
        service.kill_server()
        service.ready()
        assert service.api().get(batch).counts.running == 1
    finally:
        service.stop()
