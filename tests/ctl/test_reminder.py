"""A certificate that is about to end is told once a day."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobworker.ctl.certificate import certificate_of
from tests.ctl.test_login import token_file
from tests.harness.jobctl import Jobctl
from tests.harness.pki import make_pki
from tests.harness.service import Service


def jobpki(*arguments: str, pki: Path) -> str:
    command = [str(Path(sys.executable).with_name("jobpki")), *arguments, "--dir", str(pki)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Whose users' certificates end in 20 days."""
    made = Service(tmp_path_factory.mktemp("reminder"))
    now = datetime.now(UTC)
    ends = certificate_of(make_pki(made.folder / "trial", now=now).client("bob")).not_after
    made.passwords = make_pki(made.pki, now=now - (ends - now) + timedelta(days=20, hours=1)).passwords
    jobpki("renew", "server", pki=made.pki)
    try:
        yield made.start()
    finally:
        made.stop()


def test_it_is_told_once_a_day_and_not_after_it_was_renewed(service: Service, tmp_path: Path) -> None:
    jobctl = Jobctl(service, tmp_path / "cache", user="bob")
    bundle = jobctl.environment["JOBCTL_BUNDLE"]
    jobctl.login()
    told = jobctl("ls").stderr.decode()
    assert told.startswith(f"jobctl: {bundle}/tls.crt: ends in 20 days, on ")
    assert told.endswith(" - get the bundle anew, from: jobpki renew bob && jobpki export bob FILE\n")
    assert told.count("\n") == 1
    assert jobctl("ls").stderr == b""
    stamp = token_file(jobctl).with_suffix(".told")
    long_ago = time.time() - 86_401
    os.utime(stamp, (long_ago, long_ago))
    assert jobctl("ls", "-o", "json").stderr.decode() == told
    os.utime(stamp, (long_ago, long_ago))
    for command in told.rpartition("from: ")[2].strip().replace("FILE", str(tmp_path / "bob.tar")).split(" && "):
        jobpki(*shlex.split(command)[1:], pki=service.pki)
    assert jobctl("ls").stderr == b""
    assert jobctl("login", JOBCTL_PASSWORD=jobctl.password).returncode == 0
    assert jobctl("ls").stderr == b""


def test_one_that_lasts_is_not_told(jobctl: Jobctl) -> None:
    assert jobctl("ls").stderr == b""
