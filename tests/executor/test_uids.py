"""Jobs of different users as different users of the machine (`--uids`): what one can do to another, what is left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobworker.executor import identity
from tests.harness.executor import BATCH, Executor, wait_until

RANGE = "200000-200009"
# Root of a user namespace that has all user ids, and in which no further mount namespace may be made.
_ENTER = """
import ctypes, os, sys
unshared, mapped = os.pipe(), os.pipe()
if os.fork() == 0:
    os.read(unshared[0], 1)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{os.getppid()}/{name}", "w") as file:
            file.write("0 0 300000")
    os.write(mapped[1], b".")
    os._exit(0)
assert ctypes.CDLL(None).unshare(0x10000000) == 0  # CLONE_NEWUSER
os.write(unshared[1], b".")
os.read(mapped[0], 1)
os.wait()
with open("/proc/sys/user/max_mnt_namespaces", "w") as file:
    file.write("0")
os.execvp(sys.argv[1], sys.argv[1:])
"""
NO_NAMESPACES = (sys.executable, "-c", _ENTER)
ALICE, BOB = 200_000, 200_009
BOBS = "019312d4-5c00-7abc-8def-00000000b0b0"


@pytest.fixture(params=["auto", "none", "landlock"])
def executor(pyz: Path, tmp_path: Path, scratch: Path, request: pytest.FixtureRequest) -> Iterator[Executor]:
    landlock = request.param == "landlock"
    options = ["--isolate", "auto" if landlock else request.param, "--work", str(scratch / "work"), "--uids", RANGE]
    with Executor(pyz, tmp_path, *options, prefix=NO_NAMESPACES if landlock else ()) as made:
        made.attach()
        assert made.hello["isolation"] == ("namespaces" if request.param == "auto" else request.param)
        yield made


def said(executor: Executor, command: str, *, uid: int, **fields: object) -> list[str]:
    """Each line that a job printed which ended well."""
    (name,) = executor.give(executor.order(command, uid=uid, **fields))  # type: ignore[arg-type]
    end = executor.end(name)
    assert end["code"] == 0, (end, executor.log(name))
    return executor.log(name).decode().splitlines()


def runs(executor: Executor, command: str, *, uid: int, **fields: object) -> tuple[str, int]:
    """The id of a job and its pid, once it has printed one."""
    (name,) = executor.give(executor.order(f"echo $$; {command}", uid=uid, **fields))  # type: ignore[arg-type]
    wait_until(lambda: executor.log(name).endswith(b"\n"), "its pid")
    return name, int(executor.log(name))


def test_the_executor_says_which_user_ids_it_has(executor: Executor) -> None:
    assert executor.hello["uids"] == [ALICE, BOB]
    assert f"a user id for each user, of {RANGE}" in executor.hello["isolation_detail"]


@pytest.mark.parametrize("limits", [{}, {"open_files": 100}])
def test_a_job_is_its_user_in_every_way_and_has_no_capability(executor: Executor, limits: dict[str, int]) -> None:
    lines = said(executor, "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs)' /proc/self/status", uid=BOB, limits=limits)
    status = dict(line.split(":", 1) for line in lines)
    assert status["Uid"].split() == status["Gid"].split() == [str(BOB)] * 4
    assert status["Groups"].split() == []
    assert {name: int(value, 16) for name, value in status.items() if name.startswith("Cap")} == {
        "CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": 0, "CapAmb": 0,
    }  # fmt: skip
    assert status["NoNewPrivs"].strip() == "1"


def test_a_job_reads_nothing_that_another_users_job_has_made(executor: Executor) -> None:
    made = said(executor, f"echo ${{TMPDIR:-/tmp}}/alices-{os.getpid()}", uid=ALICE)[0]
    said(executor, f"echo secret > note; pwd; echo secret > {made}", uid=ALICE)
    note = said(executor, "pwd", uid=ALICE)[0] + "/note"
    assert said(executor, f"cat {note} {made}", uid=ALICE) == ["secret", "secret"]
    for path in (note, made):
        lines = said(executor, f"cat {path} 2>&1 || true", uid=BOB, name=f"{BOBS}/{path[-1]}1")
        assert "Permission denied" in lines[0], lines
        assert "Permission denied" in said(
            executor, f"echo x 2>&1 >> {path} || true", uid=BOB, name=f"{BOBS}/{path[-1]}2"
        )[0]  # fmt: skip
    folder = os.path.dirname(note)
    assert said(executor, f"ls {folder} 2>&1 || true", uid=BOB, name=f"{BOBS}/9")[0].endswith("Permission denied")


def test_a_job_cannot_start_below_a_folder_that_its_user_cannot_enter(executor: Executor) -> None:
    inner = said(executor, "mkdir -p shut/inner; chmod 700 shut; cd shut/inner; pwd", uid=ALICE)[0]
    end = executor.run("pwd", "", cwd=inner, uid=BOB, name=f"{BOBS}/1")
    assert end["reason"] == "spawn failed"
    assert "may not be entered" in end["detail"]
    assert said(executor, "pwd", cwd=inner, uid=ALICE) == [inner]
    program = said(executor, "cp /bin/true shut/prog; echo $PWD/shut/prog", uid=ALICE)[0]
    end = executor.run(program, "", uid=BOB, name=f"{BOBS}/2")
    assert (end["reason"], "may not be executed" in end["detail"]) == ("spawn failed", True)


def test_a_job_can_neither_signal_nor_look_into_another_users_job(executor: Executor) -> None:
    alices, pid = runs(executor, "exec sleep 600", uid=ALICE, env={"SECRET": "hers"})
    attempts = {
        "kill": f"kill -9 {pid}",
        "environ": f"cat /proc/{pid}/environ",
        "fd": f"ls /proc/{pid}/fd",
        "memory": f"head -c 1 /proc/{pid}/mem",
        "cwd": f"readlink /proc/{pid}/cwd",
        "priority": f"renice 19 {pid}",
    }
    for number, (what, command) in enumerate(attempts.items()):
        (name,) = executor.give(executor.order(f"{command} 2>&1", uid=BOB, name=f"{BOBS}/{number}"))
        assert executor.end(name)["code"] != 0, what
        assert b"hers" not in executor.log(name), what
    assert said(executor, f"tr '\\0' '\\n' < /proc/{pid}/environ | grep SECRET", uid=ALICE) == ["SECRET=hers"]
    said(executor, f"kill -TERM {pid}", uid=ALICE)
    assert executor.end(alices)["reason"] == "signalled"


def test_a_job_cannot_reach_the_executor(executor: Executor) -> None:
    parent = int(said(executor, "cut -d' ' -f4 /proc/$$/stat", uid=ALICE)[0])
    for command in (f"kill -9 {parent}", f"cat /proc/{parent}/environ", f"ls /proc/{parent}/fd"):
        assert executor.run(command, uid=ALICE)["code"] != 0, command
    loop = f"while :; do for t in $(ls /proc/{parent}/task); do kill -STOP $t; kill -KILL $t; done; done 2> /dev/null"
    attacker, _ = runs(executor, loop, uid=ALICE)
    for _ in range(100):  # while threads of the executor are this very user, again and again
        said(executor, "true", uid=ALICE)
    executor.stop(attacker, grace=0)
    assert executor.end(attacker)["reason"] == "cancelled"


def test_the_limit_of_processes_counts_one_users(executor: Executor) -> None:
    alices = [runs(executor, "exec sleep 600", uid=ALICE)[0] for _ in range(5)]
    limits = {"processes": 4}
    assert executor.run("true; sh -c true", uid=ALICE, limits=limits)["code"] != 0
    assert said(executor, "sh -c 'echo made'", uid=BOB, limits=limits, name=f"{BOBS}/1") == ["made"]
    executor.stop(*alices, grace=0)


def test_a_job_of_another_user_is_ended_with_all_it_started(executor: Executor) -> None:
    command = "setsid env -i sleep 600 & setsid sleep 601 & trap '' TERM; while :; do sleep 1; done"
    name, _ = runs(executor, command, uid=BOB, grace=0.2)
    executor.stop(name)
    assert executor.end(name)["reason"] == "cancelled"
    left = subprocess.run(["pgrep", "-u", str(BOB)], capture_output=True, text=True, check=False)
    assert left.stdout == ""


def test_a_killed_executor_leaves_no_job_of_any_user(executor: Executor) -> None:
    for uid in (ALICE, BOB):
        runs(executor, "setsid sleep 600 & exec sleep 601", uid=uid)
    executor.process.kill()
    executor.process.wait()
    for uid in (ALICE, BOB):
        wait_until(lambda uid=uid: subprocess.run(["pgrep", "-u", str(uid)], check=False).returncode == 1, "their end")


def test_what_users_leave_is_removed_with_their_batches(executor: Executor, scratch: Path) -> None:
    hostile = """
        ln -s /etc/passwd link; mkdir -p shut/inner; touch shut/inner/file; chmod 0 shut/inner shut; mkfifo pipe
        mkdir /tmp/left /tmp/left/inner; touch /tmp/left/inner/file; chmod 0 /tmp/left; chmod 0 .
    """
    said(executor, hostile, uid=ALICE)
    said(executor, "touch note; python3 -c pass || true", uid=BOB, name=f"{BOBS}/0")
    batches = scratch / "work" / "batches"
    assert {(batches / BATCH).stat().st_uid, (batches / BOBS).stat().st_uid} == {ALICE, BOB}
    executor.send({"m": "over", "batches": [BATCH]})
    wait_until(lambda: sorted(os.listdir(batches)) == [".removed", BOBS], "the folder's end")
    executor.send({"m": "over", "batches": [BOBS]})
    wait_until(lambda: os.listdir(batches) == [".removed"], "the other's end")
    wait_until(lambda: not os.listdir(batches / ".removed"), "the end of what was in them")
    tmp = scratch / "work" / "tmp"
    if executor.hello["isolation"] == "namespaces":
        wait_until(lambda: os.listdir(tmp) in ([], [".removed"]), "the end of /tmp/left")
    assert Path("/etc/passwd").read_text()


def test_what_users_leave_in_shared_memory_is_removed(pyz: Path, tmp_path: Path, scratch: Path) -> None:
    with Executor(pyz, tmp_path, "--work", str(scratch / "work"), "--uids", RANGE) as executor:
        executor.attach()
        made = "echo x > /dev/shm/left; chmod 600 /dev/shm/left; ipcmk -M 4096 -Q -S 1 > /dev/null"
        said(executor, made, uid=ALICE)
        said(executor, made.replace("left", "right"), uid=BOB, name=f"{BOBS}/0")
        look = "ls /dev/shm; tail -qn +2 /proc/sysvipc/*"
        assert len(said(executor, look, uid=ALICE)) == 2 + 6
        executor.send({"m": "over", "batches": [BATCH, BOBS]})
        batches = scratch / "work" / "batches"
        wait_until(lambda: os.listdir(batches) == [".removed"] and not os.listdir(batches / ".removed"), "their end")
        assert said(executor, look, uid=ALICE) == []


def test_a_new_executor_removes_what_users_of_the_one_before_left(pyz: Path, tmp_path: Path, scratch: Path) -> None:
    options = ["--work", str(scratch / "work"), "--uids", RANGE]
    with Executor(pyz, tmp_path, *options) as executor:
        executor.attach()
        said(executor, "touch note; chmod 0 .", uid=ALICE)
        executor.process.kill()
        executor.process.wait()
    with Executor(pyz, tmp_path, *options) as executor:
        executor.attach()
        batches = scratch / "work" / "batches"
        wait_until(lambda: os.listdir(batches) == [".removed"] and not os.listdir(batches / ".removed"), "its end")
        assert said(executor, "ls -A", uid=BOB) == []


@pytest.mark.parametrize("uid", [None, 0, 65534, ALICE - 1, BOB + 1])
def test_an_order_for_no_user_of_the_range_is_not_started(executor: Executor, uid: int | None) -> None:
    end = executor.run("true", "", **({} if uid is None else {"uid": uid}))
    assert end["reason"] == "spawn failed"
    assert f"no user id of {RANGE}" in end["detail"]


@pytest.mark.parametrize(
    ("uids", "words"),
    [
        ("5", "is not FIRST-LAST"),
        ("0-2000", "go from 1000"),
        ("3000-2000", "the last is not below the first"),
        ("60000-70000", "nobody's on many machines"),
        ("5000000000-5000000001", "go from 1000 to"),
    ],
)
def test_a_range_that_is_none_is_refused_in_words(pyz: Path, uids: str, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(pyz), "--fd", "0", "--uids", uids], capture_output=True, text=True, check=False
    )
    assert done.returncode == 78
    assert words in done.stderr


def test_a_range_that_somebody_has_is_refused_with_the_name() -> None:
    with pytest.raises(ValueError, match="the executor's own"):
        identity.check_free(identity.Uids(1000, 2000), own=1500)
    with pytest.raises(ValueError, match="the account root's"):
        identity.check_free(identity.Uids(0, 10), own=65534)


@pytest.mark.parametrize("lacking", ["setuid", "kill", "sys_ptrace"])
def test_without_the_capabilities_it_does_not_start_and_says_what_it_takes(pyz: Path, lacking: str) -> None:
    command = ["setpriv", f"--bounding-set=-{lacking}", sys.executable, "-I", "-S", str(pyz)]
    done = subprocess.run([*command, "--fd", "0", "--uids", RANGE], capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert "cannot run as user ids" in done.stderr
    assert "SYS_PTRACE" in done.stderr
    assert "jobs.uids" in done.stderr


def test_nobody_but_root_can_have_user_ids_for_jobs(pyz: Path) -> None:
    command = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", sys.executable, "-I", "-S", str(pyz)]
    done = subprocess.run([*command, "--fd", "0", "--uids", RANGE], capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert "it is not started by root" in done.stderr
