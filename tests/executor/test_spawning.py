"""Jobs that start at the same time: each as if it were alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobworker.executor.spawners import Spawners
from tests.executor.conftest import interpreters
from tests.harness.executor import Executor
from tests.harness.failcalls import FailCalls

LOOK = "pwd; cat /proc/self/oom_score_adj; ulimit -Sn; echo $MARK; ls /proc/self/fd | wc -l"


@pytest.mark.parametrize("isolate", ["auto", "none"])
@pytest.mark.parametrize("python", interpreters())
def test_each_has_its_own_folder_and_all_the_same_start(
    pyz: Path, tmp_path: Path, scratch: Path, python: str, isolate: str
) -> None:
    with Executor(pyz, tmp_path, "--isolate", isolate, python=python) as executor:
        executor.attach()
        orders = []
        for number in range(60):
            folder = scratch / str(number)
            folder.mkdir()
            limits = {"open_files": 1024} if number % 7 == 0 else {}
            orders.append(executor.order(LOOK, cwd=str(folder), env={"MARK": str(number)}, limits=limits))
        executor.give(*orders)
        own = int(Path(f"/proc/{executor.inner_pid}/oom_score_adj").read_text())
        for number, order in enumerate(orders):
            assert executor.end(order["id"])["code"] == 0
            folder, badness, files, mark, count = executor.log(order["id"]).decode().split()
            assert folder == str(scratch / str(number))
            assert int(badness) == min(1000, own + 300)
            assert (files, mark) == ("1024", str(number))
            assert count == "4"  # 0, 1, 2, and the folder that is listed
        assert int(Path(f"/proc/{executor.inner_pid}/oom_score_adj").read_text()) == own
        assert os.readlink(f"/proc/{executor.inner_pid}/cwd") == "/"


def test_a_few_threads_start_jobs_at_the_same_time(pyz: Path, tmp_path: Path) -> None:
    calls = FailCalls(tmp_path)
    with Executor(pyz, tmp_path, env={**os.environ, **calls.env}) as executor:
        executor.attach()
        orders = [executor.order("true", "") for _ in range(200)]
        executor.give(*orders)
        assert {executor.end(order["id"])["code"] for order in orders} == {0}
        # As many as there are processors for, up to a few: on a single one the control thread starts them all.
        assert (calls.most_at_once("posix_spawn") > 1) == (len(os.sched_getaffinity(0)) > 1)


def test_some_of_those_that_start_together_cannot_and_the_others_do(executor: Executor, scratch: Path) -> None:
    orders = []
    for _ in range(20):
        orders += [
            executor.order("echo ran"),
            executor.order("/no/such/program", ""),
            executor.order("tr", "a", "b", env={"PATH": f"{scratch}:/usr/bin:/bin"}),
            executor.order("pwd", cwd="/no/such/folder"),
        ]
    broken = scratch / "tr"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    executor.give(*orders)
    ends = [executor.end(order["id"]) for order in orders]
    assert [end["reason"] for end in ends] == ["exited", "spawn failed", "exited", "spawn failed"] * 20
    assert ends[1]["detail"] == "program not found: /no/such/program"
    assert ends[3]["detail"] == "working directory does not exist: /no/such/folder"


class _Attempt:
    def __init__(self, made: list[int], number: int) -> None:
        self._made, self._number = made, number

    def make(self) -> None:
        self._made.append(self._number)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_bunch_is_over_when_each_attempt_was_made_once(count: int) -> None:
    spawners = Spawners(count)
    assert len(spawners.thread_ids) == count
    for size in (0, 1, 2, 7, 50):
        for _ in range(50):
            made: list[int] = []
            spawners.run([_Attempt(made, number) for number in range(size)])
            assert sorted(made) == list(range(size))
    seen: list[int] = []
    spawners.each(lambda: seen.append(1))
    assert len(seen) == count
