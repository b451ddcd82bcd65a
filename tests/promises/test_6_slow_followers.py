"""A slow, stuck or vanished follower never slows a job or another follower; memory per follower is bounded."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.harness.service import Service, running
from tests.harness.wait import until
from tests.promises.test_4_logs_are_exact import peak_memory

FOLLOWER = """
import sys, time
from pathlib import Path
from tests.harness.service import Api
api = Api(int(sys.argv[1]), Path(sys.argv[2]))
api.token = sys.argv[3]
stream = api.follow(sys.argv[4], timeout=600)
next(stream)
print("reading", flush=True)
sys.stdin.read()
"""
SIZE = 128 << 20


def stuck(service: Service, token: str, batch: str) -> subprocess.Popen[bytes]:
    """A process that follows a batch, takes one message and no more."""
    arguments = [str(service.port), str(service.pki / "clients" / "alice"), token, batch]
    process = subprocess.Popen(
        [sys.executable, "-c", FOLLOWER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"reading\n"
    return process


def test_stuck_followers_slow_neither_job_nor_reader_and_cost_bounded_memory(service: Service, scratch: Path) -> None:
    api = service.api()
    go = scratch / "go"
    batch = api.submit(f"echo; until [ -e {go} ]; do sleep 0.01; done; head -c {SIZE} /dev/zero")
    followers = [stuck(service, api.token, batch) for _ in range(8)]
    server = service.child("server")
    before = peak_memory(server)
    go.touch()
    try:
        assert sum(len(c.data) for c in api.follow(batch, timeout=240)) == SIZE + 1
        assert api.wait(batch).counts.succeeded == 1
        # gRPC runs 5 to 8 MiB ahead of a stalled reader and stops; 128 MiB for each would be a gigabyte.
        assert peak_memory(server) - before < 160 << 20
    finally:
        for process in followers:
            process.kill()
            process.communicate()


def watches(pid: int) -> int:
    """The inotify watches of a process (proc(5), fdinfo)."""
    count = 0
    for fd in os.listdir(f"/proc/{pid}/fdinfo"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/fdinfo/{fd}") as file:
            count += sum(line.startswith("inotify wd:") for line in file)
    return count


def test_a_follower_whose_client_died_is_gone_and_its_watch_with_it(service: Service) -> None:
    api = service.api()
    batch = api.submit("echo; exec sleep 600")
    follower = stuck(service, api.token, batch)
    server = service.child("server")
    assert watches(server) == 1
    os.kill(follower.pid, signal.SIGKILL)
    follower.communicate()
    until(lambda: watches(server) == 0, "the watch is gone")
    api.cancel(batch)


def test_a_follower_that_stalls_is_cut_and_can_go_on_where_it_was(tmp_path: Path) -> None:
    with running(tmp_path / "service", GRPC__STALL_SECONDS="1") as service:
        api = service.api()
        batch = api.submit(f"head -c {64 << 20} /dev/zero")
        api.wait(batch)
        follower = stuck(service, api.token, batch)
        server = service.child("server")
        until(lambda: watches_or_handles(server, batch) == 0, "the log is closed")
        follower.kill()
        follower.communicate()
        assert sum(len(c.data) for c in api.follow(batch)) == 64 << 20


def watches_or_handles(pid: int, batch: str) -> int:
    """Open files of a batch in a process."""
    count = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
            count += batch in target and target.endswith(".log")
    return count
