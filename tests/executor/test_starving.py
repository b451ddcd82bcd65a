"""What a job does to the executor it runs under, whose user it is: nothing of it comes through."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.harness.executor import Executor

# On each process and thread of the executor's that a job can name. Each attempt that is let through is printed.
ATTACK = """
import ctypes, json, os, resource, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
number = {"x86_64": {"ioprio_set": 251, "sched_setattr": 314, "migrate_pages": 256},
          "aarch64": {"ioprio_set": 30, "sched_setattr": 274, "migrate_pages": 238}}[os.uname().machine]
done = []
def attempt(name, act):
    try:
        if act() != -1:
            done.append(name)
    except OSError:
        pass
def call(name, *arguments):
    return libc.syscall(number[name], *arguments)
executor = int(sys.argv[1])
threads = [int(name) for name in os.listdir(f"/proc/{executor}/task")]
for limit, value in (("CPU", 1), ("FSIZE", 10), ("NOFILE", 3), ("NPROC", 1), ("AS", 1 << 20), ("DATA", 1 << 20)):
    which = getattr(resource, "RLIMIT_" + limit)
    for pid in threads:
        attempt(f"prlimit {limit} {pid}", lambda: resource.prlimit(pid, which, (value, value)))
# A pointer whose lower half is zero is not null.
libc.mmap.restype = ctypes.c_void_p
at = libc.mmap(ctypes.c_void_p(1 << 32), ctypes.c_size_t(4096), 3, 0x100022, -1, ctypes.c_long(0))
if at == 1 << 32:
    ctypes.memmove(at, (ctypes.c_uint64 * 2)(10, 10), 16)
    attempt("prlimit at 4 GiB", lambda: libc.prlimit64(executor, resource.RLIMIT_FSIZE, ctypes.c_void_p(at), None))
for pid in threads:
    attempt(f"affinity {pid}", lambda: os.sched_setaffinity(pid, [0]))
    attempt(f"idle {pid}", lambda: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)))
    attempt(f"param {pid}", lambda: os.sched_setparam(pid, os.sched_param(0)))
    attempt(f"nice {pid}", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
    attempt(f"group {pid}", lambda: os.setpriority(os.PRIO_PGRP, pid, 19))
    attempt(f"io {pid}", lambda: call("ioprio_set", 1, pid, 3 << 13))
    attempt(f"io group {pid}", lambda: call("ioprio_set", 2, pid, 3 << 13))
    attempt(f"attr {pid}", lambda: call("sched_setattr", pid, (ctypes.c_uint32 * 14)(48, 5), 0))
    attempt(f"oom {pid}", lambda: open(f"/proc/{pid}/oom_score_adj", "w").write("1000"))
attempt("nice of the user", lambda: os.setpriority(os.PRIO_USER, os.getuid(), 19))
attempt("io of the user", lambda: call("ioprio_set", 3, os.getuid(), 3 << 13))
# What it may do to itself: with its own id as well, where nobody of the service is in sight.
own = os.getpid()
resource.setrlimit(resource.RLIMIT_CPU, (500, 500))
os.setpriority(os.PRIO_PROCESS, 0, 5)
os.sched_setaffinity(0, os.sched_getaffinity(0))
if sys.argv[2] != "strict":
    resource.prlimit(own, resource.RLIMIT_CPU, (400, 400))
    os.setpriority(os.PRIO_PROCESS, own, 6)
    os.sched_setaffinity(own, os.sched_getaffinity(0))
print(json.dumps(done))
"""


def _state(pid: int) -> list[object]:
    limits = [
        line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "file size" in line or "cpu" in line
    ]
    threads = sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))
    return [
        limits,
        [os.getpriority(os.PRIO_PROCESS, thread) for thread in threads],
        [os.sched_getaffinity(thread) for thread in threads],
        [os.sched_getscheduler(thread) for thread in threads],
        Path(f"/proc/{pid}/oom_score_adj").read_text(),
    ]


@pytest.mark.parametrize("isolate", ["auto", "none"])
def test_no_job_changes_limits_priority_or_processors_of_its_executor(pyz: Path, tmp_path: Path, isolate: str) -> None:
    with Executor(pyz, tmp_path, "--isolate", isolate) as executor:
        executor.attach()
        before = _state(executor.inner_pid)
        strict = "strict" if isolate == "none" else ""
        (name,) = executor.give(executor.order("python3", "-I", "-S", "-c", ATTACK, str(executor.hello["pid"]), strict))
        assert executor.end(name)["code"] == 0, executor.log(name)
        assert json.loads(executor.log(name)) == []
        assert _state(executor.inner_pid) == before
        big = executor.run("head -c 100000 /dev/zero")
        assert (big["code"], big["logs"]) == (0, [100_000])


@pytest.mark.parametrize("isolate", ["auto", "none"])
def test_the_users_key_ring_is_no_place_for_jobs_to_meet(pyz: Path, tmp_path: Path, isolate: str) -> None:
    program = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
add_key, keyctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]
KEY_SPEC_USER_KEYRING = -4
assert libc.syscall(add_key, b"user", b"note", b"text", 4, KEY_SPEC_USER_KEYRING) == -1
assert ctypes.get_errno() == errno.EPERM
assert libc.syscall(keyctl, 0, KEY_SPEC_USER_KEYRING, 1) == -1  # KEYCTL_GET_KEYRING_ID
"""
    with Executor(pyz, tmp_path, "--isolate", isolate) as executor:
        executor.attach()
        (name,) = executor.give(executor.order("python3", "-I", "-S", "-c", program))
        assert executor.end(name)["code"] == 0, executor.log(name)


@pytest.mark.parametrize("isolate", ["auto", "none"])
def test_a_closed_port_is_bound_by_no_job_and_others_are(pyz: Path, tmp_path: Path, isolate: str) -> None:
    program = """
import socket, sys
for port in map(int, sys.argv[1:]):
    for share in (0, 1):
        with socket.socket() as sock:
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if share:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                sock.bind(("127.0.0.1", port))
                print(port, "bound")
            except PermissionError:
                print(port, "refused")
"""
    with Executor(pyz, tmp_path, "--isolate", isolate, "--closed-port", "28443", "--closed-port", "28444") as executor:
        executor.attach()
        command = ["python3", "-I", "-S", "-c", program, "28443", "28444", "28445", "0"]
        (name,) = executor.give(executor.order(*command))
        executor.end(name)
        said = executor.log(name).decode().splitlines()
        assert said == ["28443 refused"] * 2 + ["28444 refused"] * 2 + ["28445 bound"] * 2 + ["0 bound"] * 2


@pytest.mark.parametrize("path", ["/proc/self/fd/{}", "/proc/1/fd/{}", "/proc/self/root", "/proc/self/cwd"])
@pytest.mark.parametrize("isolate", ["auto", "none"])
def test_no_working_directory_leads_over_what_the_executor_has_open(
    pyz: Path, tmp_path: Path, scratch: Path, isolate: str, path: str
) -> None:
    secret = tmp_path / "hidden"
    secret.mkdir()
    (secret / "key").touch()
    fd = os.open(secret, os.O_PATH | os.O_DIRECTORY)
    link = scratch / "link"
    try:
        with Executor(pyz, tmp_path, "--isolate", isolate, pass_fds=[fd]) as executor:
            executor.attach()
            for number in range(3, 40):
                wanted = path.format(number)
                link.unlink(missing_ok=True)
                link.symlink_to(wanted)
                for cwd in (wanted, str(link), f"{wanted}/."):
                    end = executor.run("/bin/ls", "-a", cwd=cwd)
                    assert end["reason"] == "spawn failed", (cwd, end)
                if "{}" not in path:
                    break
    finally:
        os.close(fd)


# It goes on when there is no room, as a shell's would not.
BOMB = """
import os, time
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.01)
"""


def test_a_fork_bomb_ends_alone_and_other_jobs_start_and_go_on(pyz: Path, tmp_path: Path) -> None:
    with Executor(pyz, tmp_path, "--processes", "400") as executor:
        executor.attach()
        (neighbour,) = executor.give(executor.order("while ! test -e go; do :; done; echo whole", cwd=str(tmp_path)))
        (bomb,) = executor.give(executor.order("python3", "-I", "-S", "-c", BOMB))
        # Some of these are to start while there is no room.
        others = [name for _ in range(10) for name in executor.give(executor.order("exec echo ran"))]
        end = executor.end(bomb)
        assert end["reason"] == "processes"
        assert "of all jobs this one held most" in end["detail"]
        assert [executor.end(other)["code"] for other in others] == [0] * len(others)
        (tmp_path / "go").touch()
        assert executor.end(neighbour)["code"] == 0
        assert executor.log(neighbour) == b"whole\n"
        assert executor.run("/bin/true; exit 3")["code"] == 3


def test_jobs_may_not_have_more_processes_than_are_allowed(pyz: Path, tmp_path: Path) -> None:
    with Executor(pyz, tmp_path, "--processes", "300") as executor:
        executor.attach()
        (name,) = executor.give(executor.order("bash", "-c", "ulimit -u"))
        executor.end(name)
        assert executor.log(name) == b"300\n"
