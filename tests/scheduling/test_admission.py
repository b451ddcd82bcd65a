"""Who is taken for the executor by a server that listens at a path, and who is not, whatever he says."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobworker.executor.bundle import NAME
from jobworker.v1 import job_pb2
from tests.harness.listening import Listening, Stranger
from tests.harness.service import Api
from tests.harness.wait import until

EVIL = "e" * 32
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def running_job(api: Api, command: str) -> str:
    batch = api.submit(command)
    until(lambda: api.get(batch).counts.running == 1, "a running job")
    return batch


def test_a_server_that_is_killed_finds_its_executor_and_jobs_again(listening: Listening) -> None:
    api = listening.start().api()
    batch = api.submit("echo one; sleep 0.5; echo two")
    waiting = running_job(api, "for i in $(seq 300); do echo $i; sleep 0.01; done")
    for life in (2, 3):
        listening.kill_server()
        listening.start_server()
        listening.attached(life)
    assert api.wait(waiting).state == job_pb2.BATCH_STATE_SUCCEEDED
    assert api.log(waiting) == b"".join(b"%d\n" % i for i in range(1, 301))
    assert api.log(batch) == b"one\ntwo\n"


def test_another_executor_is_turned_away_while_one_is_attached(listening: Listening) -> None:
    api = listening.start().api()
    stranger = Stranger(listening.path)
    stranger.say_hello()
    assert stranger.answer() == b""
    assert api.wait(api.submit("echo still here")).state == job_pb2.BATCH_STATE_SUCCEEDED
    assert listening.said().count("executor attached") == 1
    until(lambda: "another executor came while one is attached" in listening.said())


def test_a_stranger_who_comes_first_after_a_restart_is_turned_away_while_the_executor_lives(
    listening: Listening,
) -> None:
    api = listening.start().api()
    batch = running_job(api, "sleep 1; echo done")
    # The executor cannot come: every moment of the restart is the stranger's.
    os.kill(listening.inner, signal.SIGSTOP)
    listening.kill_server()
    listening.start_server()
    until(lambda: listening.said().count("listening  ") == 2, "the server")
    for _ in range(20):
        stranger = Stranger(listening.path)
        stranger.say_hello()
        assert stranger.answer() == b""
    assert listening.said().count("executor attached") == 1
    os.kill(listening.inner, signal.SIGCONT)
    listening.attached(2)
    assert api.wait(batch).state == job_pb2.BATCH_STATE_SUCCEEDED
    assert EVIL not in listening.said()


def test_a_stranger_who_knows_the_epoch_is_turned_away(listening: Listening) -> None:
    listening.start()
    epoch = listening.said().split("epoch=")[1].split()[0]
    os.kill(listening.inner, signal.SIGSTOP)
    listening.kill_server()
    listening.start_server()
    until(lambda: listening.said().count("listening  ") == 2, "the server")
    for key in ("", "k" * 64, (listening.path.parent / "executor.sock.key").read_text()):
        stranger = Stranger(listening.path)
        stranger.say_hello(epoch=epoch, key=key)
        assert stranger.answer() == b""
    os.kill(listening.inner, signal.SIGCONT)
    listening.attached(2)


def test_when_the_executor_dies_its_jobs_are_lost_and_the_next_one_is_let_in(listening: Listening) -> None:
    api = listening.start().api()
    batch = running_job(api, "sleep 1000")
    listening.kill_executor()
    # As a job in the dead executor's container might, in its last moments.
    stranger = Stranger(listening.path)
    stranger.say_hello()
    assert stranger.answer() == b""
    listening.start_executor("--hide", str(listening.path.parent))
    listening.attached(2)
    assert EVIL not in listening.said()
    assert api.wait(batch).state == job_pb2.BATCH_STATE_FAILED
    (job,) = api.jobs(batch)
    assert (job.state, job.end_reason) == (job_pb2.JOB_STATE_LOST, job_pb2.END_REASON_EXECUTOR_LOST)
    assert api.wait(api.submit("true")).state == job_pb2.BATCH_STATE_SUCCEEDED


def test_an_executor_that_died_while_there_was_no_server_makes_room(listening: Listening) -> None:
    api = listening.start().api()
    batch = running_job(api, "sleep 1000")
    listening.kill_server()
    listening.kill_executor()
    listening.start_server()
    listening.start_executor("--hide", str(listening.path.parent))
    listening.attached(2)
    assert api.jobs(batch)[0].state == job_pb2.JOB_STATE_LOST


def test_strangers_who_say_nothing_or_nonsense_do_not_keep_the_executor_out(listening: Listening) -> None:
    listening.start_server()
    until(lambda: "listening  " in listening.said(), "the server")
    silent = [Stranger(listening.path) for _ in range(40)]
    for stranger in silent[::2]:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it made room for a later one
            stranger.socket.send(b"\xff not a message")
    listening.start_executor("--hide", str(listening.path.parent))
    listening.attached(1)
    for stranger in silent:
        stranger.socket.close()


def test_jobs_whose_folder_is_hidden_do_not_find_the_socket(listening: Listening) -> None:
    api = listening.start().api()
    batch = api.submit(f"ls -A {listening.path.parent}; ls {listening.path}")
    assert api.wait(batch).state == job_pb2.BATCH_STATE_FAILED
    log = api.log(batch)
    assert b"executor.sock: No such file" in log or b"cannot access" in log
    assert b"executor.sock.key" not in log


def test_an_executor_does_not_connect_where_its_jobs_could_pose_as_the_server(listening: Listening) -> None:
    listening.start_server()
    until(lambda: "listening  " in listening.said(), "the server")
    listening.start_executor("--isolate", "none")
    until(lambda: "could pose as the server" in listening.said("executor"), "its refusal")
    assert "executor attached" not in listening.said()


def test_what_a_killed_server_left_is_taken_over_and_nothing_else_is(listening: Listening) -> None:
    listening.path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as old:
        old.bind(str(listening.path))
    server = listening.start_server()
    until(lambda: "listening  " in listening.said(), "the server")
    assert stat.S_IMODE(listening.path.lstat().st_mode) == 0o600
    server.terminate()
    assert server.wait(60) == 0
    assert not listening.path.exists()

    listening.path.write_text("precious")
    assert listening.start_server().wait(60) == 78
    assert f"{listening.path}: is there and is not a socket" in listening.said()
    assert listening.path.read_text() == "precious"


def test_a_second_server_does_not_take_the_path_of_one_that_lives(listening: Listening, tmp_path: Path) -> None:
    listening.start()
    (tmp_path / "other").mkdir()
    other = Listening(tmp_path / "other", EXECUTOR__SOCKET=str(listening.path))
    assert other.start_server().wait(60) == 78
    assert "another server listens there" in other.said()
    assert listening.api().submit("true")


@pytest.fixture
def nobodys() -> Iterator[Listening]:
    """A server of ours, and an executor of another user's."""
    folder = Path(tempfile.mkdtemp(prefix="listening-"))
    folder.chmod(0o755)
    made = Listening(folder, prefix=NOBODY, EXECUTOR__UID="65534")
    yield made
    made.stop()
    shutil.rmtree(folder)


@pytest.mark.root
def test_an_executor_of_another_user_is_known_by_its_uid(nobodys: Listening) -> None:
    nobodys.start_server()
    until(lambda: "listening  " in nobodys.said(), "the server")
    stranger = Stranger(nobodys.path)  # root's, and so may connect
    stranger.say_hello()
    assert stranger.answer() == b""
    until(lambda: "a process of user 0 wanted to be the executor, which is user 65534" in nobodys.said())
    nobodys.start_executor("--isolate", "none")
    nobodys.attached(1)
    batch = nobodys.api().submit(f"id -u; cat {nobodys.path}.key {nobodys.folder}/pki/ca/ca.key; rm -f {nobodys.path}")
    nobodys.api().wait(batch)
    log = nobodys.api().log(batch).decode()
    assert log.startswith("65534\n")
    assert log.count("Permission denied") == 3
    assert nobodys.path.exists()


@pytest.mark.root
def test_a_job_that_sees_the_socket_is_never_taken_for_the_executor(nobodys: Listening) -> None:
    nobodys.start_server()
    nobodys.start_executor("--isolate", "none")
    nobodys.attached(1)
    api = nobodys.api()
    hostile = Path(__file__).parents[1] / "harness" / "hostile.py"
    target = nobodys.folder / "hostile.py"
    shutil.copy(hostile, target)
    batch = running_job(api, f"python3 {target} {nobodys.path}")
    for life in (2, 3, 4):
        nobodys.kill_server()
        nobodys.start_server()
        nobodys.attached(life)
    assert EVIL not in nobodys.said()
    assert api.wait(api.submit("echo served")).state == job_pb2.BATCH_STATE_SUCCEEDED
    api.cancel(batch)
    api.wait(batch)
    log = api.log(batch).decode()
    assert "connected" in log
    assert "TAKEN" not in log


def test_the_zipapp_copies_itself(listening: Listening, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    zipapp = listening.folder / NAME
    subprocess.run([sys.executable, "-I", "-S", zipapp, "--copy-to", tmp_path / "there"], check=True)
    assert (tmp_path / "there" / NAME).read_bytes() == zipapp.read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "jobworker.server.cli", "executor", "--copy-to", tmp_path / "no"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "No such file or directory" in done.stderr
