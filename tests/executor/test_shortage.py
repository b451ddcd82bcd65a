"""What the service itself is short of ends no job: orders wait until there is room, and what is short is told."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.executor.test_isolation import SYSTEM_PYTHON
from tests.harness.clockshift import ClockShift
from tests.harness.executor import Executor, wait_until
from tests.harness.failcalls import FailCalls

MANY = 500


@pytest.mark.parametrize(
    ("call", "error", "what"),
    [
        ("posix_spawn", errno.EAGAIN, "processes"),
        ("posix_spawn", errno.ENOMEM, "memory"),
        ("posix_spawn", errno.ENFILE, "descriptors"),
        ("pipe2", errno.EMFILE, "descriptors"),
        ("pipe2", errno.ENFILE, "descriptors"),
        ("mkdir", errno.ENOSPC, "disk"),
        ("mkdir", errno.EDQUOT, "disk"),
    ],
)
def test_an_order_waits_for_what_the_service_is_short_of(
    failing: Executor, calls: FailCalls, call: str, error: int, what: str
) -> None:
    calls.fail(call, error)
    names = failing.give(*(failing.order("echo ran") for _ in range(3)))
    wait_until(lambda: calls.failed(call) > 3, "some tries")
    failing.until(lambda: any(message["m"] == "short" for message in failing.said), "what is short")
    told = [message for message in failing.said if message["m"] == "short"]
    assert [(message["what"], message["over"]) for message in told] == [(what, None)]
    assert sorted(failing.attach("another")["waiting"]) == names
    assert failing.hello["short"]["what"] == what
    calls.mend(call)
    for name in names:
        assert failing.end(name)["code"] == 0
        assert failing.log(name) == b"ran\n"
    failing.until(lambda: any(message["m"] == "short" and message["over"] for message in failing.said), "its end")
    last = [message for message in failing.said if message["m"] == "short"][-1]
    assert last["what"] == what
    assert last["over"] >= last["since"] == told[0]["since"]


@pytest.mark.parametrize("call", ["fork", "pipe2"])
@pytest.mark.parametrize("error", [errno.EAGAIN, errno.ENOMEM])
def test_an_order_with_limits_of_its_own_waits_as_well(
    failing: Executor, calls: FailCalls, call: str, error: int
) -> None:
    calls.fail(call, error)
    (name,) = failing.give(failing.order("echo ran", limits={"open_files": 50}))
    wait_until(lambda: calls.failed(call) > 2, "some tries")
    calls.mend(call)
    assert failing.end(name)["code"] == 0
    assert failing.log(name) == b"ran\n"


def test_no_room_for_very_long_is_no_jobs_failure(pyz: Path, tmp_path: Path, calls: FailCalls) -> None:
    clock = ClockShift(tmp_path)
    env = {**os.environ, **calls.env, **clock.env, "LD_PRELOAD": f"{calls.env['LD_PRELOAD']} {clock.env['LD_PRELOAD']}"}
    with Executor(pyz, tmp_path, env=env) as executor:
        executor.attach()
        calls.fail("posix_spawn", errno.EAGAIN)
        (name,) = executor.give(executor.order("echo ran"))
        for day in range(1, 4):
            tries = calls.failed("posix_spawn")
            wait_until(lambda: calls.failed("posix_spawn") > tries, f"another try on day {day}")  # noqa: B023
            clock.pass_time(86_400)
        calls.mend("posix_spawn")
        end = executor.end(name)
        assert (end["reason"], end["code"]) == ("exited", 0)


def test_a_server_that_does_not_know_the_message_is_not_told(failing: Executor, calls: FailCalls) -> None:
    failing.attach("of the release before", features=["memfd", "work"])
    calls.fail("posix_spawn", errno.EAGAIN)
    (name,) = failing.give(failing.order("echo ran"))
    wait_until(lambda: calls.failed("posix_spawn") > 1, "another try")
    calls.mend("posix_spawn")
    assert failing.end(name)["code"] == 0
    assert not any(message["m"] in ("short", "error") for message in failing.said)


def test_what_the_job_lacks_is_its_failure(failing: Executor) -> None:
    argument = "x" * (200 << 10)
    assert failing.run("/bin/echo", argument)["detail"] == "an argument or the whole command is too large"
    assert failing.run("/no/such/program", "")["reason"] == "spawn failed"
    end = failing.run("/bin/echo", "x", limits={"memory_bytes": 4096})
    assert (end["reason"], end["code"]) != ("exited", 0)
    assert not any(message["m"] == "short" for message in failing.said)


def test_an_order_that_waits_for_room_can_be_cancelled(failing: Executor, calls: FailCalls) -> None:
    calls.fail("pipe2", errno.EMFILE)
    kept, cancelled = failing.give(failing.order("echo ran"), failing.order("echo ran"))
    wait_until(lambda: calls.failed("pipe2") > 1, "some tries")
    failing.stop(cancelled)
    end = failing.end(cancelled)
    assert (end["reason"], end["started"]) == ("cancelled", None)
    calls.mend("pipe2")
    assert failing.end(kept)["code"] == 0


def test_an_order_that_never_finds_room_keeps_no_other_from_starting(failing: Executor, calls: FailCalls) -> None:
    assert failing.run("true", "")["code"] == 0  # its batch has a folder now
    calls.fail("mkdir", errno.ENOSPC)
    other = "019312d4-5c00-7abc-8def-00000000beef"
    stuck = failing.give(*(failing.order("echo ran", name=f"{other}/{index}") for index in range(12)))
    wait_until(lambda: calls.failed("mkdir") > len(stuck), "some tries")
    assert failing.run("true", "")["code"] == 0
    assert not failing.ends.keys() & {*stuck}
    calls.mend("mkdir")
    for name in stuck:
        assert failing.end(name)["code"] == 0


@pytest.mark.parametrize("separate", [False, True])
def test_as_many_jobs_run_at_once_as_descriptors_allow_and_none_fails(
    pyz: Path, tmp_path: Path, *, separate: bool
) -> None:
    prefix = ["prlimit", "--nofile=1024:1024"]
    with Executor(pyz, tmp_path, "--isolate", "none", prefix=prefix) as executor:
        executor.attach()
        orders = [executor.order("echo out; echo err >&2", separate=separate) for _ in range(MANY)]
        for at in range(0, MANY, 64):
            executor.give(*orders[at : at + 64])
        ends = executor.finish(orders)
        assert {(end["reason"], end["code"]) for end in ends} == {("exited", 0)}
        for order in orders:
            assert executor.log(order["id"]).startswith(b"out\n")


def test_long_jobs_take_all_descriptors_and_the_rest_follows_when_they_end(pyz: Path, tmp_path: Path) -> None:
    with Executor(pyz, tmp_path, "--isolate", "none", prefix=["prlimit", "--nofile=512:512"]) as executor:
        executor.attach()
        orders = [executor.order("exec sleep 1000", separate=True) for _ in range(200)]
        for at in range(0, 200, 50):
            executor.give(*orders[at : at + 50])
        executor.until(lambda: any(m["m"] == "short" for m in executor.said), "what is short")
        first = orders[0]["id"]
        executor.pid(first)
        last = orders[-1]["id"]
        assert last not in executor.started
        # Neither a cancellation nor an end waits for room.
        executor.stop(last)
        assert executor.end(last)["started"] is None
        executor.stop(*(order["id"] for order in orders))
        ends = executor.finish(orders)
        assert {end["reason"] for end in ends} == {"cancelled"}


@pytest.mark.root
@pytest.mark.parametrize("isolate", ["auto", "none"])
def test_a_user_without_room_for_processes_waits_for_it(pyz: Path, tmp_path: Path, scratch: Path, isolate: str) -> None:
    user = 61_234  # whose processes are these alone
    prefix = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "prlimit", "--nproc=30:30"]
    with Executor(pyz, tmp_path, "--isolate", isolate, prefix=prefix, python=SYSTEM_PYTHON) as executor:
        executor.attach()
        gate = scratch / "gate"
        os.mkfifo(gate)
        gate.chmod(0o644)
        orders = [executor.order(f"read line < {gate}") for _ in range(60)]
        executor.give(*orders)
        executor.until(lambda: any(m["m"] == "short" for m in executor.said), "what is short")
        assert executor.said[-1].get("what", "processes") == "processes"
        assert len(executor.started) < len(orders)
        opened = os.open(gate, os.O_RDWR)
        os.write(opened, b"go\n" * len(orders))
        for order in orders:
            assert executor.end(order["id"])["code"] == 0
        os.close(opened)
