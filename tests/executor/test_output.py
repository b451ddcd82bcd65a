"""A log is exactly the bytes that passed the job's output until it was final."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.harness.executor import Executor, wait_until


def _log(executor: Executor, *argv: str, **fields: object) -> bytes:
    (name,) = executor.give(executor.order(*argv, **fields))
    end = executor.end(name)
    log = executor.log(name)
    assert end["logs"] == [len(log)]
    return log


@pytest.mark.parametrize("how", ["> /dev/stderr", ">> /dev/stderr", "> /dev/stdout", "| tee /dev/stderr > /dev/null"])
def test_a_job_that_opens_its_output_again_keeps_what_was_printed(executor: Executor, how: str) -> None:
    assert _log(executor, f"echo one; echo two; echo oops {how}; echo three") == b"one\ntwo\noops\nthree\n"


def test_output_through_a_process_substitution_is_whole(executor: Executor) -> None:
    for _ in range(5):
        assert _log(executor, "/bin/bash", "-c", "exec > >(sleep 0.05; tee /dev/null); echo hi") == b"hi\n"


def test_every_byte_value_passes(plain: Executor) -> None:
    every = bytes(range(256)) * 3
    (name,) = plain.give(plain.order("cat", stdin=True), stdin=[every])
    plain.end(name)
    assert plain.log(name) == every


def test_a_last_line_without_its_newline_is_kept(plain: Executor) -> None:
    assert _log(plain, "printf 'a\\nb'") == b"a\nb"


def test_merged_output_is_in_the_order_it_was_printed(plain: Executor) -> None:
    lines = _log(plain, "for i in 1 2 3 4 5 6 7 8 9; do echo o$i; echo e$i >&2; done").split()
    assert lines == [f"{s}{i}".encode() for i in range(1, 10) for s in "oe"]


def test_separate_output_goes_into_two_logs(executor: Executor) -> None:
    (name,) = executor.give(executor.order("echo out; echo err >&2", separate=True))
    assert executor.end(name)["logs"] == [4, 4]
    assert (executor.log(name, 0), executor.log(name, 1)) == (b"out\n", b"err\n")


def test_a_job_that_closes_its_output_lives_on(executor: Executor, scratch: Path) -> None:
    flag = scratch / "go"
    (name,) = executor.give(executor.order(f"exec >&- 2>&-; while ! test -e {flag}; do sleep 0.02; done; exit 7"))
    executor.pid(name)
    # Another job's end shows that the pipe's end was seen meanwhile.
    executor.run("sleep 0.1")
    assert name not in executor.ends
    flag.touch()
    assert executor.end(name)["code"] == 7


def test_output_is_in_the_log_while_the_job_runs(executor: Executor) -> None:
    (name,) = executor.give(executor.order("echo now; exec sleep 100"))
    wait_until(lambda: executor.log_path(name).exists() and executor.log(name) == b"now\n")
    executor.stop(name)
    executor.end(name)


def test_a_flood_is_whole_and_delays_no_other_job(plain: Executor) -> None:
    size = 64 << 20
    flood = plain.order(f"head -c {size} /dev/zero")
    slow = [plain.order("/bin/bash", "-c", "for ((i=0;i<300;i++)); do printf x; done") for _ in range(4)]
    quick = [plain.order("echo quick") for _ in range(20)]
    names = plain.give(flood, *slow, *quick)
    for name in names:
        assert plain.end(name)["code"] == 0
    assert plain.ends[names[0]]["logs"] == [size]
    digest = hashlib.sha256()
    for _ in range(size >> 20):
        digest.update(bytes(1 << 20))
    assert hashlib.sha256(plain.log(names[0])).digest() == digest.digest()
    assert [plain.log(name) for name in names[1:5]] == [b"x" * 300] * 4
    assert [plain.log(name) for name in names[5:]] == [b"quick\n"] * 20


def test_what_is_in_the_pipe_when_the_job_ends_is_kept(plain: Executor) -> None:
    names = plain.give(*(plain.order("head -c 60000 /dev/zero") for _ in range(30)))
    for name in names:
        assert plain.end(name)["logs"] == [60000]


@pytest.mark.parametrize(
    "command", ["head -c 1000000 /dev/zero", "yes", "printf 12345; printf 678 >&2; printf 90123; sleep 100"]
)
def test_a_log_limit_is_exact_and_ends_the_job(executor: Executor, command: str) -> None:
    (name,) = executor.give(executor.order(command, log_bytes=10))
    end = executor.end(name)
    assert (end["reason"], end["logs"], end["lost"]) == ("log limit", [10], 0)
    assert executor.log_path(name).stat().st_size == 10


def test_a_log_limit_counts_both_streams(plain: Executor) -> None:
    (name,) = plain.give(
        plain.order("printf 1234567; sleep 0.1; printf 89abc >&2; sleep 100", separate=True, log_bytes=10)
    )
    assert plain.end(name)["logs"] == [7, 3]


def test_a_job_that_prints_just_its_limit_is_not_over_it(plain: Executor) -> None:
    assert plain.run("printf 1234567890", log_bytes=10)["reason"] == "exited"


def test_a_full_disk_ends_the_job_and_what_was_lost_is_told(pyz: Path, tmp_path: Path) -> None:
    with Executor(pyz, tmp_path, "--disk-retry", "0.05", "--disk-patience", "0.2") as executor:
        executor.attach()
        order, other = executor.order("echo lost; exec sleep 100"), executor.order("echo fine")
        fds = [os.open("/dev/full", os.O_WRONLY), os.open(executor.log_path(other["id"]), os.O_WRONLY | os.O_CREAT)]
        executor.send({"m": "start", "epoch": executor.hello["epoch"], "orders": [order, other]}, fds)
        for fd in fds:
            os.close(fd)
        assert executor.end(other["id"])["code"] == 0
        end = executor.end(order["id"])
        assert (end["reason"], end["logs"], end["lost"]) == ("disk full", [0], 5)


def test_a_log_that_cannot_be_written_at_all_ends_the_job_at_once(plain: Executor, tmp_path: Path) -> None:
    order = plain.order("echo lost; exec sleep 100")
    (tmp_path / "readonly").touch()
    fd = os.open(tmp_path / "readonly", os.O_RDONLY)  # EBADF at each write
    plain.send({"m": "start", "epoch": plain.hello["epoch"], "orders": [order]}, [fd])
    os.close(fd)
    end = plain.end(order["id"])
    assert (end["reason"], end["logs"], end["lost"]) == ("disk full", [0], 5)
