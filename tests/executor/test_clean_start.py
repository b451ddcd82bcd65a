"""What the executor was started with does not reach a job."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from pathlib import Path

import pytest

from tests.executor.conftest import interpreters
from tests.harness.executor import Executor

PROBE = """
grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status
umask
echo nice $(nice)
echo limits $(ulimit -Sc) $(ulimit -Ss) $(ulimit -Sn)
echo fds $(ls /proc/self/fd | tr '\\n' ' ')
echo session $(cut -d' ' -f6 /proc/$$/stat) $$
env
"""


def _dirty() -> None:
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if os.uname().machine == "x86_64":  # rt_sigaction of the C library's own signal 32, to SIG_IGN: make leaves it so
        ctypes.CDLL(None).syscall(13, 32, (ctypes.c_uint64 * 4)(1), None, 8)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM, signal.SIGALRM})
    os.umask(0o077)
    os.nice(5)
    resource.setrlimit(resource.RLIMIT_CORE, (4096, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


@pytest.mark.parametrize("limits", [{}, {"file_size_bytes": 1 << 30}], ids=["fast", "with limits"])
@pytest.mark.parametrize("python", interpreters())
def test_a_job_starts_clean_whatever_its_executor_was_started_with(
    pyz: Path, tmp_path: Path, python: str, limits: dict[str, int]
) -> None:
    with (tmp_path / "secret").open("w") as secret:
        env = {"SECRET": "x", "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", ""), "PATH": "/nowhere"}
        with Executor(pyz, tmp_path, python=python, env=env, pass_fds=[secret.fileno()], preexec_fn=_dirty) as executor:
            executor.attach()
            name = executor.give(executor.order(PROBE, env={"MINE": "1"}, limits=limits))[0]
            assert executor.end(name)["code"] == 0
    lines = executor.log(name).decode().splitlines()
    values = dict(line.split(None, 1) for line in lines if line.startswith(("Sig", "nice", "limits", "fds", "session")))
    assert values["SigBlk:"].strip("0") == ""
    assert values["SigIgn:"].strip("0") == ""
    assert "0022" in lines
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = "8192" if hard == resource.RLIM_INFINITY else str(min(8 << 20, hard) // 1024)
    assert values["limits"].split()[:2] == ["0", stack]
    assert values["limits"].split()[2] == str(min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    assert values["fds"].split() == ["0", "1", "2", "3"]  # 3 is that of ls itself
    assert len(set(values["session"].split())) == 1
    if os.geteuid() == 0:
        assert values["nice"] == "0"
    variables = {line.partition("=")[0] for line in lines if "=" in line}
    assert variables == {
        "PATH", "HOME", "LANG", "MINE", "JOBWORKER_CORRELATION_ID", "JOBWORKER_JOB_INDEX", "PWD"
    }  # fmt: skip


def test_an_order_may_set_every_variable_but_the_marks(plain: Executor) -> None:
    order = plain.order(
        "echo $PATH $HOME $LANG $JOBWORKER_JOB_INDEX",
        env={"PATH": "/bin", "HOME": "/h", "LANG": "C", "JOBWORKER_JOB_INDEX": "x"},
    )
    (name,) = plain.give(order)
    plain.end(name)
    assert plain.log(name).decode().split() == ["/bin", "/h", "C", name.split("/")[1]]


def test_a_job_is_killed_before_its_executor_when_memory_runs_out(executor: Executor) -> None:
    (name,) = executor.give(executor.order("cat /proc/self/oom_score_adj"))
    executor.end(name)
    own = int(Path(f"/proc/{executor.inner_pid}/oom_score_adj").read_text())
    assert int(executor.log(name)) > own


def test_a_job_without_a_folder_runs_at_home_and_one_with_runs_there(plain: Executor, tmp_path: Path) -> None:
    home, there = plain.give(plain.order("pwd; echo $HOME"), plain.order("pwd", cwd="/usr"))
    plain.end(home)
    plain.end(there)
    assert len(set(plain.log(home).split())) == 1
    assert plain.log(there) == b"/usr\n"


def test_standard_input_is_what_was_given_or_nothing(plain: Executor) -> None:
    given, none = plain.give(plain.order("cat", stdin=True), plain.order("cat"), stdin=[b"\0in\xff", None])
    assert plain.end(given)["code"] == plain.end(none)["code"] == 0
    assert plain.log(given) == b"\0in\xff"
    assert plain.log(none) == b""
