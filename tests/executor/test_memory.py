"""Whether a job that was killed is said to have died of memory: real control groups, and a kernel that really kills."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.harness.executor import Executor
from tests.harness.memory import GREEDY, enter, kills
from tests.harness.wait import until

pytestmark = pytest.mark.root

SUICIDE = "kill -9 $$"


def have_one_killed(group: Path) -> None:
    """The kernel kills a process of the group that is not a job."""
    before = kills(group)
    done = subprocess.run([*enter(group), "/bin/sh", "-c", GREEDY], check=False, capture_output=True)
    assert done.returncode == -9
    until(lambda: kills(group) > before, "the kernel's count")


def test_a_job_that_the_kernel_kills_for_memory_is_told_so(group: Path, pyz: Path, tmp_path: Path) -> None:
    with Executor(pyz, tmp_path, prefix=enter(group)) as executor:
        executor.attach()
        end = executor.run(GREEDY)
        assert (end["reason"], end["signal"]) == ("memory", 9)
        assert executor.run(SUICIDE)["reason"] == "signalled"


def test_what_is_killed_in_another_group_is_none_of_its(group: Path, pyz: Path, tmp_path: Path) -> None:
    with Executor(pyz, tmp_path) as executor:
        executor.attach()
        (other,) = executor.give(executor.order("sleep 600"))
        have_one_killed(group)
        assert executor.run(SUICIDE)["reason"] == "signalled"
        executor.stop(other, grace=0)
        executor.end(other)


def test_what_was_killed_before_its_first_job_started_was_no_job(group: Path, pyz: Path, tmp_path: Path) -> None:
    with Executor(pyz, tmp_path, prefix=enter(group)) as executor:
        executor.attach()
        have_one_killed(group)
        assert executor.run(SUICIDE)["reason"] == "signalled"
