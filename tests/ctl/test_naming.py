"""Finding batches, and naming them otherwise than by their whole ids."""

from __future__ import annotations

import re
import uuid

import pytest

from tests.harness.jobctl import Jobctl


@pytest.fixture(scope="module")
def nightly(jobctl: Jobctl) -> list[str]:
    """Three finished batches, oldest first: two with one name, and one that is newer with another."""
    ids = [
        jobctl.id_of("--name", "nightly", "-l", "team=a", "-l", "tier=1", "echo first"),
        jobctl.id_of("--name", "nightly", "-l", "team=a", "echo second; exit 3"),
        jobctl.id_of("--name", "weekly", "-l", "team=b", "echo third"),
    ]
    assert jobctl("wait", *ids).returncode == 1
    return ids


def listed(jobctl: Jobctl, *options: str) -> list[str]:
    done = jobctl("ls", "-q", "-n", "0", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().split()


def test_a_list_is_of_a_name_of_labels_and_of_a_time(jobctl: Jobctl, nightly: list[str]) -> None:
    first, second, third = nightly
    assert listed(jobctl, "--name", "nightly") == [second, first]
    assert listed(jobctl, "--label", "team=a", "--label", "tier=1") == [first]
    assert listed(jobctl, "--name", "nightly", "--state", "failed") == [second]
    assert set(nightly) <= set(listed(jobctl, "--since", "10m"))
    assert not set(nightly) & set(listed(jobctl, "--until", "10m"))
    accepted = jobctl.json("get", second)["acceptedAt"]
    assert set(listed(jobctl, "--since", accepted)) >= {second, third}
    assert first not in listed(jobctl, "--since", accepted)
    assert second not in listed(jobctl, "--until", accepted)
    assert listed(jobctl, "--since", "2100-01-01") == []


@pytest.mark.parametrize("option", ["--since", "--until"])
def test_a_time_that_is_none_is_refused_with_the_option(jobctl: Jobctl, option: str) -> None:
    done = jobctl("ls", option, "yesterday")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert f"{option}: 'yesterday' is neither a duration such as 2h nor a time" in done.stderr.decode()


def test_a_batch_is_named_by_the_beginning_of_its_id(jobctl: Jobctl, nightly: list[str]) -> None:
    first = nightly[0]
    for text in (first, first.upper(), first[:-1], first.replace("-", "")[:31]):
        assert jobctl("logs", text).stdout == b"first\n", text


def test_an_ambiguous_beginning_is_refused_with_what_it_may_mean(jobctl: Jobctl, nightly: list[str]) -> None:
    done = jobctl("get", nightly[0][:4])
    assert done.returncode == 4
    shown = done.stderr.decode()
    assert "is the beginning of several ids" in shown
    assert len(re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", shown)) >= 2


def test_a_name_means_the_newest_batch_of_it(jobctl: Jobctl, nightly: list[str]) -> None:
    assert jobctl("logs", "nightly").stdout == b"second\n"
    assert jobctl.json("get", "weekly")["correlationId"] == nightly[2]


def test_no_batch_is_cancelled_by_a_name_that_several_have(jobctl: Jobctl, nightly: list[str]) -> None:
    done = jobctl("cancel", "nightly")
    assert (done.returncode, done.stdout) == (4, b"")
    assert f"is the name of several batches, give an id: {nightly[1]}, {nightly[0]}" in done.stderr.decode()
    assert jobctl("cancel", "weekly").returncode == 0


def test_the_last_batches_are_named_by_their_distance(jobctl: Jobctl) -> None:
    before, last = jobctl.id_of("echo before"), jobctl.id_of("echo last")
    assert jobctl("wait", before, last).returncode == 0
    assert jobctl("logs", "@last").stdout == b"last\n"
    assert jobctl("logs", "@-1").stdout == b"last\n"
    assert jobctl("logs", "@-2").stdout == b"before\n"
    assert jobctl("logs", "@-9999").returncode == 4
    done = jobctl("logs", "@first")
    assert done.returncode == 2
    assert b"@last is your newest batch" in done.stderr


def test_the_last_batch_of_an_administrator_is_his_own(jobctl: Jobctl, nightly: list[str]) -> None:
    environment = {
        "JOBCTL_BUNDLE": str(jobctl.service.pki / "clients" / "admin"),
        "JOBCTL_PASSWORD": jobctl.service.passwords["admin"],
    }
    done = jobctl("get", "@last", **environment)
    assert nightly[2] not in done.stdout.decode()
    assert done.returncode == 0 or b"admin has 0 batches" in done.stderr
    assert jobctl("get", "weekly", **environment).returncode == 0


def test_several_batches_are_taken_where_it_makes_sense(jobctl: Jobctl, nightly: list[str]) -> None:
    first, second, third = nightly
    done = jobctl("wait", first, third, first)
    assert done.returncode == 0
    assert done.stdout.decode().split("\n")[:-1] == [
        f"{first} SUCCEEDED (1: 1 succeeded)", f"{third} SUCCEEDED (1: 1 succeeded)",
    ]  # fmt: skip
    assert jobctl("wait", first, second).returncode == 1
    assert jobctl("logs", third, first).stdout == b"third\nfirst\n"
    shown = jobctl("get", first, second).stdout.decode()
    assert shown.index(first) < shown.index(second)
    assert jobctl("cancel", "-j", "0", first, second).returncode == 2
    running = [jobctl.id_of("sleep 600") for _ in range(2)]
    done = jobctl("cancel", "--grace", "1s", *running)
    assert done.returncode == 0
    assert [line.split()[:2] for line in done.stdout.decode().splitlines()] == [[i, "CANCELLED"] for i in running]


def test_jobs_are_shown_by_their_state(jobctl: Jobctl) -> None:
    jobs = b"true\nexit 4\ntrue\nexit 5\n"
    batch = jobctl("submit", "-f", "-", stdin=jobs).stdout.decode().strip()
    assert jobctl("wait", batch).returncode == 1
    assert jobctl("get", "--state", "failed", "-q", batch).stdout == b"1\n3\n"
    assert jobctl("get", "--state", "FAILED", "--state", "succeeded", "-q", batch).stdout == b"0\n1\n2\n3\n"
    shown = jobctl("get", "--state", "failed", "-n", "1", batch).stdout.decode()
    assert "exit 4" in shown
    assert "exit 5" not in shown
    assert f"... and some more: jobctl get -n 0 {batch}" in shown


def test_what_means_no_batch_is_exit_code_4(jobctl: Jobctl) -> None:
    for text in ("no such name", "0123456", str(uuid.uuid4())):
        done = jobctl("get", text)
        assert (done.returncode in (4, 5), done.stderr.count(b"\n")) == (True, 1), text
