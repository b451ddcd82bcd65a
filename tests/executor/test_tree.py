"""When a job is final nothing of it runs, and nothing else was harmed."""

from __future__ import annotations

import shlex
import signal
import uuid

import pytest

from tests.harness.executor import Executor, marked, wait_until

# A daemon: forks, makes a session, forks again, and closes or keeps its output.
DAEMON = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
if "quiet" in sys.argv:
    for fd in (0, 1, 2): os.close(fd)
if "deaf" in sys.argv:
    import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "nameless" in sys.argv:
    os.execve("/bin/sleep", ["sleep", sys.argv[1]], {})
time.sleep(1000)
"""


def _tag() -> str:
    # `sleep 1234.5678` takes it as a time, and ps shows it.
    return f"1{uuid.uuid4().int % 10**6:06}.{uuid.uuid4().int % 10**6:06}"


def _daemon(tag: str, *how: str) -> str:
    return f"python3 -c {shlex.quote(DAEMON)} {tag} {' '.join(how)}"


def test_a_background_child_that_holds_the_output_ends_with_its_job(executor: Executor) -> None:
    tag = _tag()
    end = executor.run(f"sleep {tag} & echo done", linger=0.1)
    assert (end["reason"], end["code"], end["logs"]) == ("exited", 0, [5])
    assert marked(tag) == []


def test_a_background_child_that_ignores_sigterm_is_killed_after_the_grace(executor: Executor) -> None:
    tag = _tag()
    end = executor.run(f"(trap '' TERM; while :; do sleep {tag}; done) & exit 3", linger=0.05, grace=0.2)
    assert (end["reason"], end["code"], end["signal"]) == ("exited", 3, None)
    assert marked(tag) == []


@pytest.mark.parametrize("how", [(), ("quiet",), ("deaf",), ("quiet", "deaf"), ("nameless",), ("quiet", "nameless")])
def test_a_daemon_ends_with_its_job(executor: Executor, how: tuple[str, ...]) -> None:
    tag = _tag()
    end = executor.run(f"{_daemon(tag, *how)}; sleep 0.3; exit 4", linger=0.1, grace=0.2)
    assert end["code"] == 4
    assert marked(tag) == []


def test_a_daemon_without_any_sign_ends_with_the_last_job_that_ran_beside_it(executor: Executor) -> None:
    tag = _tag()
    (other,) = executor.give(executor.order("exec sleep 1000"))
    executor.pid(other)
    parent = executor.run(f"{_daemon(tag, 'quiet', 'nameless')}; sleep 0.3; exit 0", linger=0.1)
    assert parent["code"] == 0
    executor.stop(other)
    executor.end(other)
    assert marked(tag) == []


def test_the_children_of_other_jobs_are_left_alone(executor: Executor) -> None:
    tag = _tag()
    (other,) = executor.give(executor.order(f"{_daemon(tag)} & sleep {tag} & sleep {tag}"))
    wait_until(lambda: len(marked(tag)) >= 3, "the other job's processes")
    before = set(marked(tag))
    assert executor.run("sleep 0.05 & setsid sleep 1000 & exit 0", linger=0.1)["code"] == 0
    assert {pid for pid in marked(tag) if pid in before} >= {pid for pid in before if pid in marked(tag)}
    assert len(marked(tag)) >= 3
    executor.stop(other)
    executor.end(other)
    assert marked(tag) == []


@pytest.mark.parametrize("way", ["cancelled", "timeout"])
def test_grandchildren_that_ignore_sigterm_end_with_their_job(executor: Executor, way: str) -> None:
    tag = _tag()
    child = f"(trap '' TERM; (trap '' TERM; while :; do sleep {tag}; done) & wait) &"
    command = f"trap '' TERM; {child} {_daemon(tag, 'deaf')}; wait"
    order = executor.order(command, grace=0.3, timeout=1.0 if way == "timeout" else None)
    (name,) = executor.give(order)
    wait_until(lambda: len(marked(tag)) >= 2, "the grandchildren")
    if way == "cancelled":
        executor.stop(name)
    end = executor.end(name)
    assert (end["reason"], end["code"], end["signal"]) == (way, None, signal.SIGKILL)
    assert marked(tag) == []


def test_a_cancelled_job_may_clean_up_and_its_own_exit_code_is_told(executor: Executor) -> None:
    (name,) = executor.give(executor.order("trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.02; done"))
    wait_until(lambda: executor.log_path(name).exists() and executor.log(name) == b"up\n")
    executor.stop(name)
    end = executor.end(name)
    assert (end["reason"], end["code"], end["signal"]) == ("cancelled", 5, None)
    assert executor.log(name).splitlines()[-1] == b"bye"


def test_the_grace_of_a_stop_is_the_servers_to_say(executor: Executor) -> None:
    (name,) = executor.give(executor.order("trap '' TERM; echo up; while :; do sleep 0.02; done", grace=1000.0))
    wait_until(lambda: executor.log_path(name).exists() and executor.log(name) == b"up\n")
    executor.stop(name, grace=0.0)
    assert executor.end(name)["signal"] == signal.SIGKILL


def test_a_stopped_job_can_be_cancelled(executor: Executor) -> None:
    (name,) = executor.give(executor.order("kill -STOP $$; exit 1", grace=1000.0))
    executor.pid(name)
    executor.stop(name)
    assert executor.end(name)["reason"] == "cancelled"


def test_a_job_that_forks_without_end_is_ended(executor: Executor) -> None:
    tag = _tag()
    (name,) = executor.give(
        executor.order(f"while :; do (sleep {tag} &) ; sleep 0.01; done", grace=0.1, limits={"processes": 2000})
    )
    wait_until(lambda: len(marked(tag)) >= 5, "some forks")
    executor.stop(name)
    assert executor.end(name)["reason"] == "cancelled"
    assert marked(tag) == []


def test_no_zombie_stays(executor: Executor) -> None:
    (name,) = executor.give(executor.order("for i in 1 2 3 4 5 6 7 8; do (sleep 0.05 &); done; exec sleep 1000"))
    executor.pid(name)
    path = f"/proc/{executor.inner_pid}/task/{executor.inner_pid}/children"

    def adopted() -> list[str]:
        with open(path) as file:
            return file.read().split()

    wait_until(lambda: not adopted(), "the orphans' reaping")
    executor.stop(name)
    executor.end(name)
