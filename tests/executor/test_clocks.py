"""The clock of the day jumps; what the executor measures does not."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.harness.clockshift import ClockShift
from tests.harness.executor import Executor

_HOUR = 3600.0


@pytest.mark.parametrize("jump", [-_HOUR, _HOUR], ids=["back", "on"])
def test_a_job_took_as_long_as_it_took_when_the_clock_jumps(pyz: Path, tmp_path: Path, jump: float) -> None:
    clock = ClockShift(tmp_path)
    with Executor(pyz, tmp_path, env={**os.environ, **clock.env}) as executor:
        executor.attach()
        began = time.monotonic()
        (name,) = executor.give(executor.order("while ! test -e go; do :; done", cwd=str(tmp_path)))
        executor.pid(name)
        clock.jump(jump)
        (later,) = executor.give(executor.order("true", ""))
        assert executor.end(later)["code"] == 0
        (tmp_path / "go").touch()
        end = executor.end(name)
        assert end["started"] is not None
        assert 0 <= end["ended"] - end["started"] <= (time.monotonic() - began) * 1e9
        # The executor did see the jump.
        started = executor.ends[later]["started"]
        assert started is not None
        assert abs(started - end["started"] - jump * 1e9) < (time.monotonic() - began) * 1e9


@pytest.mark.parametrize("jump", [-_HOUR, _HOUR], ids=["back", "on"])
def test_no_timeout_and_no_grace_depends_on_the_clock_of_the_day(pyz: Path, tmp_path: Path, jump: float) -> None:
    clock = ClockShift(tmp_path)
    with Executor(pyz, tmp_path, env={**os.environ, **clock.env}) as executor:
        executor.attach()
        stubborn = "trap : TERM; while :; do :; done"
        (timed, long) = executor.give(
            executor.order(stubborn, timeout=0.5, grace=0.2), executor.order("exec sleep 1000", timeout=_HOUR / 2)
        )
        executor.pid(long)
        clock.jump(jump)
        end = executor.end(timed)
        assert (end["reason"], end["signal"]) == ("timeout", 9)
        assert executor.run("true", "")["code"] == 0
        assert long not in executor.ends


def test_a_timeout_is_told_by_the_clock_that_goes_on(pyz: Path, tmp_path: Path) -> None:
    clock = ClockShift(tmp_path)
    with Executor(pyz, tmp_path, env={**os.environ, **clock.env}) as executor:
        executor.attach()
        (name,) = executor.give(executor.order("exec sleep 1000", timeout=_HOUR))
        executor.pid(name)
        clock.pass_time(2 * _HOUR)
        executor.run("true", "")  # which has it look at its clock
        end = executor.end(name)
        assert end["reason"] == "timeout"
        assert end["started"] is not None
        assert end["ended"] - end["started"] >= 2 * _HOUR * 1e9
