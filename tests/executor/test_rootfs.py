"""What jobs see of the machine: what is allowed, and nothing else; by namespaces, or else by Landlock."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.executor import Executor

# Root of a user namespace in which no further mount namespace may be made.
NO_NAMESPACES = ("unshare", "--user", "--map-root-user", "sh", "-c",
                 'echo 0 > /proc/sys/user/max_mnt_namespaces; exec "$@"', "sh")  # fmt: skip


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of a person's, outside of what is allowed."""
    folder = Path(f"/srv/jobworker-test-{os.getpid()}")
    folder.mkdir(mode=0o755)
    (folder / "diary").write_text("secret")
    (folder / "bin").mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=["namespaces", "landlock"])
def executor(pyz: Path, tmp_path: Path, home: Path, request: pytest.FixtureRequest) -> Iterator[Executor]:
    options = ["--work", str(home / "work"), "--readable", str(home / "bin"), "--hide", str(home / "bin/private")]
    (home / "bin/tool").write_text("#!/bin/sh\necho a tool\n")
    (home / "bin/tool").chmod(0o755)
    landlock = request.param == "landlock"
    with Executor(
        pyz, tmp_path, *options, *(["--allow-root-jobs"] if landlock else []), prefix=NO_NAMESPACES if landlock else ()
    ) as made:
        made.attach()
        assert made.hello["isolation"] == request.param
        yield made


def output(executor: Executor, command: str) -> str:
    (name,) = executor.give(executor.order(command))
    executor.end(name)
    return executor.log(name).decode()


def test_what_is_not_allowed_is_not_read_and_nothing_of_it_is_written(executor: Executor, home: Path) -> None:
    said = output(executor, f"""
        cat {home}/diary; ls {home}; ls /root /home /var/lib /srv; cat /var/log/*
        for place in /usr /etc /bin /opt / {home}/bin /sys; do touch $place/mine && echo wrote $place; done
        mknod disk b 8 0 && cat disk; echo done""")  # fmt: skip
    assert said.endswith("done\n")
    assert "secret" not in said
    assert "wrote" not in said
    assert not (home / "bin/mine").exists()


def test_programs_and_named_folders_are_there(executor: Executor, home: Path) -> None:
    said = output(executor, f"{home}/bin/tool; python3 -c 'print(6 * 7)'; echo text > note; cat note; cat < /dev/null")
    assert said == "a tool\n42\ntext\n"


def test_temporary_files_have_a_place(executor: Executor) -> None:
    assert output(executor, "python3 -c 'import tempfile; tempfile.TemporaryFile().write(b\"x\"); print(1)'") == "1\n"
    # mktemp(1) has no other place to fall back to.
    assert output(executor, "file=$(mktemp) && echo text > $file && cat $file && rm $file") == "text\n"


def test_a_socket_of_the_machine_is_not_to_be_reached(pyz: Path, tmp_path: Path, home: Path) -> None:
    program = """
import socket, sys
for path in sys.argv[1:]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        print("connected", path)
    except OSError:
        pass
"""
    with socket.socket(socket.AF_UNIX) as listener, Executor(pyz, tmp_path) as executor:
        path = str(home / "socket")
        listener.bind(path)
        os.chmod(path, 0o777)
        listener.listen()
        executor.attach()
        (name,) = executor.give(executor.order("python3", "-c", program, path, "/run/docker.sock"))
        assert executor.end(name)["code"] == 0
        assert executor.log(name) == b""


def test_shared_memory_and_terminals_are_the_jobs_own(pyz: Path, tmp_path: Path) -> None:
    name_of = f"jobworker-test-{os.getpid()}"
    Path("/dev/shm", name_of).touch()
    try:
        with Executor(pyz, tmp_path) as executor:
            executor.attach()
            said = output(executor, "ls /dev/shm /run; ls /dev/mem /dev/kmsg 2>/dev/null; script -qec tty /dev/null")
            assert name_of not in said
            assert said.split()[-1].startswith("/dev/pts/")
    finally:
        Path("/dev/shm", name_of).unlink()


@pytest.mark.parametrize("options", [(), ("--user", "root"), ("--user", "0:0")])
def test_jobs_are_not_roots_unless_that_is_allowed(pyz: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    if options:
        done = refused(pyz, *options)
        assert done.returncode == 78
        assert "--allow-root-jobs" in done.stderr
        return
    with Executor(pyz, tmp_path) as executor:
        executor.attach()
        assert output(executor, "id -u; id -g; id -G") == "65534\n65534\n65534\n"
    with Executor(pyz, tmp_path, "--allow-root-jobs") as executor:
        executor.attach()
        said = output(executor, "id -u; grep CapEff /proc/self/status; echo 1 > /proc/sys/kernel/panic || echo refused")
        assert said.startswith("0\nCapEff:\t0000000000000000\n")
        assert said.endswith("refused\n")


def test_jobs_run_as_the_user_that_is_named(pyz: Path, tmp_path: Path) -> None:
    with Executor(pyz, tmp_path, "--user", "12345:23456") as executor:
        executor.attach()
        assert output(executor, "id -u; id -g") == "12345\n23456\n"
    assert "there is no user nobody-of-that-name" in refused(pyz, "--user", "nobody-of-that-name").stderr


def test_where_nothing_isolates_the_executor_does_not_start_unless_that_is_asked_for(pyz: Path) -> None:
    # A filter around it stands for a kernel without Landlock: seccomp answers ENOSYS.
    blind = """
import os, sys
sys.path.insert(0, sys.argv[1])
from executor import landlock, libc, seccomp
libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
numbers = {"landlock_create_ruleset": 444, "unshare": {"x86_64": 272, "aarch64": 97}[os.uname().machine]}
for table in seccomp._NUMBERS.values():
    table.update(numbers)
program = seccomp.assemble(
    [seccomp.Rule(call, (), 38) for call in numbers], seccomp._MACHINES[os.uname().machine]
)
seccomp.install(program)
os.execv(sys.executable, [sys.executable, "-I", "-S", *sys.argv[2:]])
"""
    command = [sys.executable, "-c", blind, str(pyz), str(pyz), "--fd", "0", "--allow-root-jobs"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78, done.stderr
    assert 'jobs.isolation = "none"' in done.stderr
    assert "no Landlock" in done.stderr


def refused(pyz: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(pyz), "--fd", "0", *options]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
