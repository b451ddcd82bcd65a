"""A machine whose clock is off: a login holds, and what is submitted sorts as it came."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.ctl.test_login import token_file
from tests.harness.clockshift import ClockShift
from tests.harness.jobctl import Jobctl
from tests.harness.pki import make_pki
from tests.harness.service import Service

HOUR, DAY = 3600.0, 86400.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """With certificates that are good in the past as well: TLS libraries go by this clock too."""
    made = Service(tmp_path_factory.mktemp("clocks"))
    made.passwords = make_pki(made.pki, now=datetime.now(UTC) - timedelta(days=7)).passwords
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture
def clock(tmp_path: Path) -> ClockShift:
    return ClockShift(tmp_path)


@pytest.mark.parametrize("seconds", [-2 * DAY, -HOUR, HOUR, 2 * DAY])
def test_a_clock_that_is_off_changes_nothing(
    service: Service, tmp_path: Path, clock: ClockShift, seconds: float
) -> None:
    clock.jump(seconds)
    right = Jobctl(service, tmp_path / "right").login()
    wrong = Jobctl(service, tmp_path / "wrong")
    wrong.environment |= clock.env
    wrong.login()
    names = [jobctl.id_of("true") for jobctl in (right, wrong, right, wrong)]
    assert wrong("run", "echo hello").stdout == b"hello\n"
    listed = right("ls").stdout.decode()
    assert sorted(names, key=listed.index) == names[::-1]


def test_a_clock_that_is_set_after_the_login_changes_nothing(
    service: Service, tmp_path: Path, clock: ClockShift
) -> None:
    jobctl = Jobctl(service, tmp_path / "cache")
    jobctl.environment |= clock.env
    jobctl.login()
    kept = token_file(jobctl).read_bytes()
    for seconds in (-HOUR, 2 * DAY, -4 * DAY):
        clock.jump(seconds)
        assert jobctl("submit", "true").returncode == 0
        assert jobctl("ls", JOBCTL_PASSWORD="wrong").returncode == 0
    assert token_file(jobctl).read_bytes() == kept


def test_a_login_tells_its_end_by_the_clock_of_who_reads_it(
    service: Service, tmp_path: Path, clock: ClockShift
) -> None:
    clock.jump(2 * DAY)
    jobctl = Jobctl(service, tmp_path / "cache")
    jobctl.environment |= clock.env
    jobctl.environment["JOBCTL_PASSWORD"] = jobctl.password
    here = datetime.now(UTC) + timedelta(days=2)
    said = jobctl("login").stdout.decode().strip().rpartition("until ")[2]
    assert here < datetime.fromisoformat(said).replace(tzinfo=UTC) < here + timedelta(hours=2)
    theirs = datetime.fromisoformat(json.loads(jobctl("login", "-o", "json").stdout)["expiresAt"])
    assert theirs < here
