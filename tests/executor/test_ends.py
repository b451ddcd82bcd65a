"""What an end says is what the kernel said."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.harness.executor import Executor


def test_every_exit_status_is_told(plain: Executor) -> None:
    names = plain.give(*(plain.order(f"exit {code}") for code in range(128)))
    names += plain.give(*(plain.order(f"exit {code}") for code in range(128, 256)))
    ends = [plain.end(name) for name in names]
    assert [end["code"] for end in ends] == list(range(256))
    assert {(end["reason"], end["signal"]) for end in ends} == {("exited", None)}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGPIPE, signal.SIGHUP])
def test_the_signal_that_ended_a_job_is_told(executor: Executor, number: signal.Signals) -> None:
    end = executor.run(f"kill -{number.value} $$")
    assert (end["reason"], end["code"], end["signal"]) == ("signalled", None, number.value)


def test_a_limit_of_cpu_time_ends_a_job_by_signal(plain: Executor) -> None:
    end = plain.run("while :; do :; done", limits={"cpu_seconds": 1})
    assert end["signal"] in (signal.SIGXCPU, signal.SIGKILL)
    usage = end["usage"]
    assert usage is not None
    assert usage["user_us"] + usage["system_us"] > 500_000


@pytest.mark.parametrize(
    ("limit", "command", "answer"),
    [
        ({"open_files": 77}, "ulimit -Hn", b"77"),
        ({"file_size_bytes": 512 * 9}, "ulimit -f", b"9"),
        ({"memory_bytes": 1 << 30}, "ulimit -v", b"1048576"),
        ({"cpu_seconds": 100}, "ulimit -t", b"100"),
        ({"processes": 500}, "ulimit -p || ulimit -u", b"500"),
        ({"open_files": 10**12}, "test $(ulimit -Hn) -gt 0 && echo capped", b"capped"),
    ],
)
def test_limits_are_those_of_the_order(plain: Executor, limit: dict[str, int], command: str, answer: bytes) -> None:
    (name,) = plain.give(plain.order(command, limits=limit))
    assert plain.end(name)["code"] == 0
    assert plain.log(name).strip() == answer


def test_a_limit_does_not_reach_the_next_job(plain: Executor) -> None:
    limited, other = plain.give(plain.order("ulimit -n", limits={"open_files": 99}), plain.order("ulimit -n"))
    plain.end(limited)
    plain.end(other)
    assert plain.log(limited) == b"99\n"
    assert plain.log(other) != b"99\n"


def test_peak_memory_is_told_only_where_it_is_the_jobs_own(plain: Executor) -> None:
    small = plain.run("true", "")["usage"]
    size = 100 << 20
    large = plain.run(f"head -c {size} /dev/zero | tail -c {size} > /dev/null")["usage"]
    assert small is not None
    assert small["peak_memory_bytes"] is None
    assert large is not None
    assert (large["peak_memory_bytes"] or 0) > size


def test_an_end_tells_when_it_started_and_ended(plain: Executor) -> None:
    end = plain.run("sleep 0.05")
    assert end["started"] is not None
    assert end["ended"] - end["started"] >= 50_000_000


@pytest.mark.parametrize("limits", [{}, {"open_files": 100}], ids=["fast", "with limits"])
def test_a_job_that_cannot_start_says_why(plain: Executor, tmp_path: Path, limits: dict[str, int]) -> None:
    plain_file, script, folder = tmp_path / "plain", tmp_path / "script", tmp_path / "folder"
    plain_file.write_text("text\n")
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    folder.mkdir()
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\0\1\2\3garbage")
    garbage.chmod(0o755)
    long = ["true", "x" * (3 << 20)]
    cases = [
        (["nosuch-program"], {}, "program not found: nosuch-program"),
        (["/no/such"], {}, "program not found: /no/such"),
        (["true"], {"env": {"PATH": ""}}, "program not found: true"),
        ([str(plain_file)], {}, f"program may not be executed: {plain_file}"),
        (["plain"], {"env": {"PATH": str(tmp_path)}}, f"program may not be executed: {plain_file}"),
        ([str(folder)], {}, f"program may not be executed: {folder}"),
        ([str(script)], {}, f"the interpreter of the program was not found: {script}"),
        ([str(garbage)], {}, f"program is in no executable format: {garbage}"),
        (long, {}, "an argument or the whole command is too large"),
        (["true"], {"cwd": "/no/such"}, "working directory does not exist: /no/such"),
        (["true"], {"cwd": str(plain_file)}, f"working directory is not a directory: {plain_file}"),
        (["true"], {"cwd": "relative"}, "working directory is not an absolute path: relative"),
        (["true", "a\0b"], {}, "an argument, a variable or a path holds a NUL byte"),
        ([], {}, "there is no program to run: the command is empty"),
    ]
    orders = [plain.order("x", limits=limits) for _ in cases]
    for order, (argv, fields, _) in zip(orders, cases, strict=True):
        order["argv"] = argv
        order.update(fields)  # type: ignore[typeddict-item]
    good = plain.order("echo ran")
    names = plain.give(*orders, good)
    for name, (_, _, detail) in zip(names, cases, strict=False):
        end = plain.end(name)
        assert (end["reason"], end["detail"]) == ("spawn failed", detail)
        assert (end["code"], end["signal"], end["started"], end["usage"], end["logs"]) == (None, None, None, None, [0])
        assert name not in plain.started
    assert plain.end(good["id"])["code"] == 0


def test_a_job_with_an_oom_kill_of_its_own_making_is_not_blamed_on_memory(plain: Executor) -> None:
    assert plain.run("kill -9 $$")["reason"] == "signalled"


def test_a_thousand_sleeps_run_at_once(plain: Executor) -> None:
    names = []
    for _ in range(10):
        names += plain.give(*(plain.order("sleep", "300") for _ in range(100)))
    plain.until(lambda: len(plain.started) == 1000, "a thousand starts")
    # Their descriptors lie far above the soft limit that jobs have.
    for limits in ({}, {"cpu_seconds": 100}):
        (another,) = plain.give(plain.order("echo out; echo err >&2; ulimit -Sn", separate=True, limits=limits))
        assert plain.end(another)["code"] == 0
        assert (plain.log(another, 0), plain.log(another, 1)) == (b"out\n1024\n", b"err\n")
    plain.stop(*names)
    for name in names:
        end = plain.end(name)
        assert (end["reason"], end["signal"]) == ("cancelled", signal.SIGTERM)
    assert not Path(f"/proc/{plain.inner_pid}/task/{plain.inner_pid}/children").read_text()
    assert len(os.listdir(f"/proc/{plain.inner_pid}/fd")) < 30
