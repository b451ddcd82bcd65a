"""Jobs may signal the process that holds them, whose user they are; that neither stops the executor nor hides it that
somebody else does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.harness.executor import Executor, alive, wait_until

# Each way to a SIGTERM whose sender the receiver cannot tell, or takes for another.
FORGERY = """
import ctypes, fcntl, os, signal, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
executor = int(sys.argv[1])
number = {"x86_64": 129, "aarch64": 138}[os.uname().machine]  # rt_sigqueueinfo
for pid in (0, int(sys.argv[2])):
    for code in (-1, -2, -3):  # SI_QUEUE, SI_TIMER, SI_MESGQ
        info = struct.pack("=iiiiii", signal.SIGTERM, 0, code, 0, pid, 0).ljust(128, bytes(1))
        print("queued", libc.syscall(number, executor, signal.SIGTERM, info))
reading, writing = os.pipe()
fcntl.fcntl(reading, fcntl.F_SETOWN, executor)
fcntl.fcntl(reading, fcntl.F_SETSIG, signal.SIGTERM)
fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC)
os.write(writing, b"x")
os.kill(executor, signal.SIGTERM)
os.kill(executor, signal.SIGINT)
"""

FLOOD = """
import os, signal, sys
os.kill(int(sys.argv[1]), signal.SIGTERM)
os.kill(int(sys.argv[1]), signal.SIGINT)
open(sys.argv[2], "w").close()
for _ in range(2):
    os.fork()
while True:
    os.kill(int(sys.argv[1]), signal.SIGTERM)
"""


def _python(executor: Executor, program: str, *arguments: str) -> str:
    order = executor.order("python3", "-I", "-S", "-c", program, str(executor.hello["pid"]), *arguments)
    (name,) = executor.give(order)
    return name


def test_no_job_stops_its_executor_by_a_signal(executor: Executor) -> None:
    name = _python(executor, FORGERY, str(executor.process.pid))
    assert executor.end(name)["code"] == 0
    assert b"queued 0" in executor.log(name)
    assert executor.run("exit 3")["code"] == 3
    assert not any(message["m"] == "stopping" for message in executor.said)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_flood_of_signals_from_a_job_hides_no_stop(executor: Executor, scratch: Path, number: int) -> None:
    sent = scratch / "sent"
    name = _python(executor, FLOOD, str(sent))
    executor.pid(name)
    executor.until(lambda: sent.exists() or name in executor.ends, "the flood")
    assert name not in executor.ends, executor.log(name)
    inner = executor.inner_pid
    os.kill(inner, signal.SIGSTOP)
    # One of the job's stays pending, and the kernel drops those that come after it: signal(7).
    wait_until(lambda: _is_pending(inner, signal.SIGTERM), "a pending signal")
    executor.process.send_signal(number)
    wait_until(lambda: not _is_pending(executor.process.pid, number), "init's hearing it")
    os.kill(inner, signal.SIGCONT)
    executor.until(lambda: name in executor.ends, "the end of the flood")
    assert executor.ends[name]["reason"] == "interrupted"
    assert executor.process.wait(30) == 0
    assert not alive(inner)


def _is_pending(pid: int, number: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in masks)
