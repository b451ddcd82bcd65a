"""Jobs end with their executor, and see nothing of what they must not see."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.harness.executor import Executor, alive, marked, wait_until

SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin:/bin:/usr/local/bin") or sys.executable
# Root tries both; others are unprivileged as they are.
USERS = [(), ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")] if os.geteuid() == 0 else [()]


def _tag() -> str:
    return f"1{uuid.uuid4().int % 10**6:06}.{uuid.uuid4().int % 10**6:06}"


@pytest.mark.parametrize("isolate", ["auto", "none"])
@pytest.mark.parametrize("who", ["inner", "init"])
def test_no_job_outlives_an_executor_that_is_killed(pyz: Path, tmp_path: Path, isolate: str, who: str) -> None:
    tag = _tag()
    with Executor(pyz, tmp_path, "--isolate", isolate) as executor:
        executor.attach()
        executor.give(
            executor.order(f"trap '' TERM; setsid sleep {tag} & (sleep {tag} &) ; sleep {tag}"),
            executor.order("sleep", tag),
        )
        wait_until(lambda: len(marked(f"sleep\0{tag}")) == 4, "the jobs")
        inner = executor.inner_pid
        os.kill(inner if who == "inner" else executor.process.pid, signal.SIGKILL)
        executor.process.wait(30)
        wait_until(lambda: not marked(tag), "the jobs' end")
        wait_until(lambda: not alive(inner), "the inner process's end")


@pytest.mark.parametrize("isolate", ["auto", "none"])
def test_an_executor_that_is_told_to_stop_interrupts_its_jobs_and_tells_their_ends(
    pyz: Path, tmp_path: Path, isolate: str
) -> None:
    with Executor(pyz, tmp_path, "--isolate", isolate, "--stop-grace", "0.2") as executor:
        executor.attach()
        polite, deaf = executor.give(
            executor.order("exec sleep 1000"),
            executor.order("trap '' TERM; echo up; while :; do sleep 0.05; done", grace=1000.0),
        )
        wait_until(lambda: executor.log_path(deaf).exists() and executor.log(deaf) == b"up\n")
        executor.process.send_signal(signal.SIGTERM)
        executor.until(lambda: any(m["m"] == "stopping" for m in executor.said), "stopping")
        (late,) = executor.give(executor.order("echo ran"))
        ends = [executor.end(name) for name in (polite, deaf, late)]
        assert [(end["reason"], end["signal"]) for end in ends] == [
            ("interrupted", signal.SIGTERM),
            ("interrupted", signal.SIGKILL),
            ("interrupted", None),
        ]
        assert executor.log(late) == b""
        assert executor.process.wait(30) == 0


def test_an_executor_whose_supervisor_dies_ends(pyz: Path, tmp_path: Path) -> None:
    code = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-I", "-S", sys.argv[1], "--fd", sys.argv[2]], pass_fds=[int(sys.argv[2])])
time.sleep(1000)
"""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    supervisor = subprocess.Popen(
        [sys.executable, "-c", code, str(pyz), str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stderr=subprocess.DEVNULL,
    )
    ours.settimeout(30)
    ours.recv(65536)
    supervisor.kill()
    supervisor.wait()
    wait_until(lambda: not marked(str(pyz)), "the executor's end")
    ours.close()
    theirs.close()


@pytest.mark.parametrize("user", USERS, ids=["as started", "as nobody"][: len(USERS)])
def test_isolated_jobs_see_neither_hidden_paths_nor_the_machines_processes(
    pyz: Path, tmp_path: Path, user: tuple[str, ...]
) -> None:
    hidden = Path(str(pyz.parent)) / uuid.uuid4().hex
    (hidden / "below").mkdir(parents=True)
    (hidden / "key").write_text("secret")
    (pyz.parent / "file").write_text("secret")
    options = ["--hide", str(hidden), "--hide", str(pyz.parent / "file"), "--hide", "/no/such"]
    with Executor(pyz, tmp_path, *options, python=SYSTEM_PYTHON, prefix=user) as executor:
        executor.attach()
        if executor.hello["isolation"] != "namespaces":
            pytest.skip(executor.hello["isolation_detail"])
        assert executor.hello["pid"] == 1
        command = f"""
            ls -A {hidden}; cat {hidden}/key {pyz.parent}/file; touch {hidden}/new; umount {hidden}
            ls -d /proc/[0-9]* | wc -l; grep -E '^(Cap|NoNewPrivs)' /proc/self/status
            kill -9 1; kill -9 -1 2>/dev/null; true"""
        (name,) = executor.give(executor.order("/bin/sh", "-c", command.replace("kill -9 -1 2>/dev/null;", "")))
        end = executor.end(name)
        assert end["code"] == 0
        log = executor.log(name).decode()
        assert "secret" not in log
        assert "key" not in log.replace(f"{hidden}/key", "")
        assert "NoNewPrivs:\t1" in log
        assert all(line.split()[1].strip("0") == "" for line in log.splitlines() if line.startswith("Cap"))
        count = next(int(line) for line in log.splitlines() if line.strip().isdigit())
        assert count < 10
        assert not (hidden / "new").exists()
        # The executor lives: its PID 1 is not to be killed from inside.
        assert executor.run("true", "")["code"] == 0
    shutil.rmtree(hidden)


@pytest.mark.parametrize("user", USERS, ids=["as started", "as nobody"][: len(USERS)])
@pytest.mark.parametrize("isolate", ["auto", "none"])
def test_a_job_cannot_take_the_executors_socket_or_memory(
    pyz: Path, tmp_path: Path, user: tuple[str, ...], isolate: str
) -> None:
    with Executor(pyz, tmp_path, "--isolate", isolate, python=SYSTEM_PYTHON, prefix=user) as executor:
        executor.attach()
        parent = "$(cut -d' ' -f4 /proc/$$/stat)"
        command = f"p={parent}; cat /proc/$p/fd/*; head -c 1 /proc/$p/mem; cat /proc/$p/environ"
        command += "; readlink /proc/$p/exe /proc/$p/fd/*"
        (name,) = executor.give(executor.order(f"({command}) 2>&1 | grep -vi 'permission denied'"))
        executor.end(name)
        assert executor.log(name) == b""
        if user:
            # Another's /proc/self/oom_score_adj could not be opened once the process hid.
            (adjustment,) = executor.give(executor.order("cat /proc/self/oom_score_adj"))
            executor.end(adjustment)
            assert int(executor.log(adjustment)) >= 300


def test_an_unprivileged_executor_does_all_that_a_job_needs(pyz: Path, tmp_path: Path) -> None:
    with Executor(pyz, tmp_path, python=SYSTEM_PYTHON, prefix=USERS[-1]) as executor:
        executor.attach()
        tag = _tag()
        end = executor.run(f"setsid sh -c 'setsid sleep {tag} &'; echo x > /dev/stderr; exit 3", linger=0.1)
        assert (end["code"], end["logs"]) == (3, [2])
        assert marked(tag) == []
        assert executor.run("true", "", limits={"open_files": 50})["code"] == 0


def test_where_the_kernel_forbids_namespaces_the_executor_says_so_and_works(pyz: Path, tmp_path: Path) -> None:
    # A user namespace in which no further one may be made.
    code = 'echo 0 > /proc/sys/user/max_mnt_namespaces; exec "$@"'
    prefix = ("unshare", "--user", "--map-root-user", "sh", "-c", code, "sh")
    with Executor(pyz, tmp_path, "--allow-root-jobs", prefix=prefix) as executor:
        executor.attach()
        assert executor.hello["isolation"] == "landlock"
        assert "unshare" in executor.hello["isolation_detail"]
        assert executor.run("exit 4")["code"] == 4


def test_the_bundle_is_the_same_bytes_each_time(pyz: Path, tmp_path: Path) -> None:
    from jobworker.executor import bundle  # noqa: PLC0415

    bundle.build(str(tmp_path / "again.pyz"))
    assert (tmp_path / "again.pyz").read_bytes() == pyz.read_bytes()
    answer = subprocess.run(
        [sys.executable, "-I", "-S", str(pyz), "--help"], capture_output=True, text=True, check=True
    )
    assert "--connect" in answer.stdout
