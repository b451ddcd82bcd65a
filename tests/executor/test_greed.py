"""The memory watch, in a real control group with a limit: the greediest job ends before the kernel kills."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.executor import Executor
from tests.harness.memory import GREEDY, LIMIT_BYTES, enter, kills

pytestmark = pytest.mark.root

HOLD = 'exec python3 -c \'x = bytearray(int({mib}) << 20); open("{file}", "w"); import time; time.sleep(600)\''


@pytest.fixture
def watched(group: Path, pyz: Path, tmp_path: Path) -> Iterator[Executor]:
    """An executor in it that watches."""
    with Executor(pyz, tmp_path, "--memory-watch", "0.8", prefix=enter(group)) as started:
        started.attach()
        yield started


def test_the_greediest_job_ends_before_the_kernel_kills(watched: Executor, group: Path, tmp_path: Path) -> None:
    file = tmp_path / "holds"
    (modest,) = watched.give(watched.order(HOLD.format(mib=60, file=file)))
    watched.until(file.exists, "the modest job's memory")
    end = watched.run(GREEDY)
    assert (end["reason"], end["signal"]) == ("memory", 9)
    assert "of all jobs this one held most" in end["detail"]
    assert kills(group) == 0
    assert modest not in watched.ends
    watched.stop(modest, grace=0)
    assert watched.end(modest)["reason"] == "cancelled"


def test_memory_of_a_jobs_descendants_counts(watched: Executor, group: Path) -> None:
    end = watched.run(f"({GREEDY}) & wait")
    assert end["reason"] == "memory"
    assert kills(group) == 0


def test_the_cache_of_files_ends_no_job(watched: Executor, group: Path, tmp_path: Path) -> None:
    file = tmp_path / "large"
    end = watched.run(f"head -c {2 * LIMIT_BYTES} /dev/zero > {file}; cat {file} > /dev/null; rm {file}")
    assert (end["reason"], end["code"]) == ("exited", 0)


def test_a_fraction_that_is_none_is_refused(pyz: Path, tmp_path: Path) -> None:
    with Executor(pyz, tmp_path, "--memory-watch", "1.5") as refused:
        assert refused.process.wait(60) == 2
        assert "1.5 is not above 0 and at most 1" in refused.stderr_path.read_text()
