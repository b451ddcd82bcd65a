"""Tokens side by side, and forgetting them."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from jobpki import directory
from jobpki.users import Role
from tests.ctl.test_login import token_file
from tests.harness.jobctl import Jobctl
from tests.harness.pki import LOW_COST


def kept(jobctl: Jobctl) -> list[Path]:
    return sorted(Path(jobctl.environment["XDG_CACHE_HOME"], "jobworker").iterdir())


def on_another_machine(jobctl: Jobctl, folder: Path) -> Jobctl:
    """The same user with the bundle of another key, of the same authority, and the same cache."""
    pki = shutil.copytree(jobctl.service.pki, folder / "pki")
    shutil.rmtree(pki / "clients" / jobctl.user)
    directory.issue(pki, jobctl.user, role=Role.OPERATOR, now=datetime.now(UTC), cost=LOW_COST)
    other = Jobctl(jobctl.service, Path(jobctl.environment["XDG_CACHE_HOME"]), user=jobctl.user)
    other.environment["JOBCTL_BUNDLE"] = str(pki / "clients" / jobctl.user)
    return other


def test_two_certificates_of_a_user_hold_two_tokens(newcomer: Jobctl, tmp_path: Path) -> None:
    other = on_another_machine(newcomer, tmp_path)
    newcomer.login()
    other.login()
    assert len(kept(newcomer)) == 2
    assert [jobctl("ls").returncode for jobctl in (newcomer, other, newcomer)] == [0, 0, 0]
    assert other("logout").stdout == b"forgot 1 token\n"
    assert [jobctl("ls").returncode for jobctl in (newcomer, other)] == [0, 3]


def test_a_logout_forgets_the_token_and_may_be_repeated(newcomer: Jobctl) -> None:
    newcomer.login()
    assert newcomer.json("logout") == {"forgotten": 1, "ended": 1}
    assert kept(newcomer) == []
    assert newcomer("ls").returncode == 3
    assert newcomer("logout").stdout == b"forgot 0 tokens\n"


def test_a_logout_forgets_all_that_is_kept(newcomer: Jobctl, tmp_path: Path) -> None:
    newcomer.login()
    on_another_machine(newcomer, tmp_path).login()
    shutil.copy(token_file(newcomer), token_file(newcomer).with_name("elsewhere:50051_bob.json"))
    assert newcomer("logout", "--all", JOBCTL_BUNDLE=str(tmp_path / "nowhere")).stdout == b"forgot 3 tokens\n"
    assert kept(newcomer) == []


def test_a_copy_of_the_token_is_refused_after_the_logout(newcomer: Jobctl, tmp_path: Path) -> None:
    newcomer.login()
    file = token_file(newcomer)
    copied = file.read_bytes()
    assert newcomer("logout").returncode == 0
    file.write_bytes(copied)
    done = newcomer("ls")
    assert done.returncode == 3
    assert b"the token was logged out: log in again" in done.stderr
    assert newcomer.json("logout") == {"forgotten": 1, "ended": 1}  # it was before


def test_where_the_service_is_away_the_token_is_forgotten_and_the_exit_code_says_so(newcomer: Jobctl) -> None:
    newcomer.login()
    file = token_file(newcomer)
    nowhere = file.with_name(file.name.replace(str(newcomer.service.port), "1"))
    file.rename(nowhere)
    done = newcomer("-S", "localhost:1", "logout")
    assert (done.returncode, done.stdout) == (6, b"forgot 1 token\n")
    assert b"the service did not end it" in done.stderr
    assert not nowhere.exists()


def test_a_follow_with_the_token_ends(newcomer: Jobctl) -> None:
    newcomer.login()
    batch = newcomer.id_of("echo begun; sleep 600")
    process = newcomer.start("logs", "-f", batch)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    assert newcomer("logout").returncode == 0
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 3
    assert b"the token was logged out" in stderr
    newcomer.login()
    assert newcomer("cancel", "--grace", "0", batch).returncode == 0
