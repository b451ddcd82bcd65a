"""`jobctl admin`, as an administrator runs it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.jobctl import Jobctl, Terminal
from tests.harness.service import Service, running
from tests.harness.wait import until


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that these tests stop, start and configure."""
    with running(tmp_path_factory.mktemp("steered") / "service") as service:
        yield service


@pytest.fixture
def root(steered: Service, tmp_path: Path) -> Jobctl:
    return Jobctl(steered, tmp_path / "root", user="admin").login()


@pytest.fixture
def user(steered: Service, tmp_path: Path) -> Jobctl:
    return Jobctl(steered, tmp_path / "user", user="alice").login()


def said(done: subprocess.CompletedProcess[bytes], code: int = 0) -> str:
    """What it printed, on either."""
    assert done.returncode == code, done.stderr
    return (done.stdout + done.stderr).decode()


def test_status_tells_people_and_programs_how_the_service_is(root: Jobctl, user: Jobctl) -> None:
    batch = user.id_of("--", "exec sleep 600")
    until(lambda: root.json("admin", "status")["runningJobs"] == 1, "it runs")
    text = said(root("admin", "status"))
    facts = {line.partition(":")[0]: line.partition(":")[2].strip() for line in text.splitlines()}
    assert facts["state"] == "SERVING"
    assert facts["jobs"] == "1 running, 0 queued in 1 batches"
    assert re.fullmatch(r"alice: 1 running, 0 queued in 1 batches, \d+ in 1 stored", facts["users"])
    assert re.fullmatch(r"\d+ and 4 files in 1 batches", facts["stored"])
    assert facts["configuration"].startswith("generation ")
    assert {"executor", "isolation", "disk", "ca certificate", "server certificate", "followers"} <= facts.keys()
    found = root.json("admin", "status")
    assert (found["state"], found["queuedJobs"], found["users"][0]["user"]) == ("SERVICE_STATE_SERVING", 0, "alice")
    said(user("cancel", batch))


def test_a_dry_run_of_retention_says_what_would_be_removed_and_why(root: Jobctl, user: Jobctl) -> None:
    batch = user.id_of("--", "echo x")
    said(user("wait", batch))
    until(lambda: root.json("admin", "status")["unfinishedBatches"] == 0, "it is over")
    assert said(root("admin", "retention", "--dry-run")).startswith("0 would be removed now")

    def planned() -> list[str]:
        return said(root("admin", "retention", "--dry-run", "retention.user_stored_bytes=1")).splitlines()

    lines = until(lambda: any(line.startswith(batch) for line in planned()) and planned(), "it is stored")
    (line,) = [line for line in lines if line.startswith(batch)]
    assert line.split()[1] == "alice"
    assert line.endswith("the user's batches take too much")
    assert "would be removed now; those listed take" in lines[-1]
    said(root("admin", "retention", "--dry-run", "--max", "1", "-o", "json", "retention.stored_files=1"))
    found = root.json("admin", "retention", "--dry-run", "retention.stored_files=1")
    reasons = {removal["correlationId"]: removal["reason"] for removal in found["removals"]}
    assert reasons[batch] == "RETENTION_REASON_STORED"
    assert said(user("get", batch))  # it is there as before


def test_stop_and_start_say_what_still_runs(root: Jobctl, user: Jobctl) -> None:
    batch = user.id_of("-p", "1", "--", "exec sleep 600")
    until(lambda: root.json("admin", "status")["runningJobs"] == 1, "it runs")
    assert said(root("admin", "stop")) == "DRAINING: 1 job running, 0 waiting\n"
    refused = user("submit", "--", "true")
    assert refused.returncode != 0
    assert b"drains" in refused.stderr
    assert " until 20" in said(root("admin", "stop", "--deadline", "10m"))
    assert root.json("admin", "stop", "--kill", "--cancel-queued")["state"].startswith("SERVICE_STATE_")
    assert "CANCELLED" in said(user("wait", batch), 1)
    until(lambda: said(root("admin", "stop")) == "STOPPED: 0 jobs running, 0 waiting\n", "it is stopped")
    assert "the service is stopped; an administrator can start it" in said(user("submit", "--", "true"), 5)
    assert said(root("admin", "start")) == "SERVING: 0 jobs running, 0 waiting\n"
    assert said(user("run", "--", "echo hello")) == "hello\n"


def test_config_is_shown_set_and_unset(root: Jobctl) -> None:
    rows = {line.split()[0]: line.split()[1:] for line in said(root("admin", "config", "show")).splitlines() if line}
    assert rows["jobs.running"] == ["2048", "default", "effect", "at", "once"]
    assert rows["grpc.port"][1:] == ["environment", "a", "restart"]
    generation = int(rows["generation"][0])
    text = said(root("admin", "config", "set", "jobs.running=9", "jobs.log_bytes=none", "log_level=warning"))
    assert [line.split()[:3] for line in text.splitlines()[1:4]] == [
        ["log_level", "warning", "update"], ["jobs.running", "9", "update"], ["jobs.log_bytes", "none", "update"],
    ]  # fmt: skip
    assert f"generation  {generation + 1}\n" in text
    shown = root.json("admin", "config", "unset", "jobs.running", "jobs.log_bytes", "log_level")
    assert shown["values"]["jobs"]["running"] == 2048
    assert {entry["source"] for entry in shown["entries"]} == {"default", "environment"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("config", "set", "jobs.running=0"), 5, "jobs.running: input should be greater"),
        (("config", "set", "jobs.runing=3"), 5, "is it jobs.running?"),
        (("config", "set", "grpc.port=3"), 5, "grpc.port needs a restart"),
        (("config", "set", "-g", "999", "jobs.running=3"), 5, "and the change was made for 999"),
        (("config", "unset", "jobs.runing"), 5, "there is no such key"),
        (("config", "set", "jobs.running"), 2, "is not KEY=VALUE"),
        (("stop", "--deadline", "soon"), 2, "is not a duration"),
        (("retention",), 2, "--dry-run"),
        (("retention", "--dry-run", "retention.bytes=1"), 5, "retention.bytes: there is no such key"),
        (("retention", "--dry-run", "jobs.running=1"), 5, "jobs.running: is not a key of retention"),
        (("stop", "--deadline", "3s", "--kill"), 2, "cannot be given together"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_mend(
    root: Jobctl, arguments: tuple[str, ...], code: int, words: str
) -> None:
    text = said(root("admin", *arguments), code)
    assert words in text
    assert text.startswith("jobctl: ")
    assert text.count("\n") == 1


def test_an_operator_is_told_that_it_takes_an_administrator(user: Jobctl) -> None:
    for right, arguments in (
        ("read_service", ("status",)),
        ("operate_service", ("stop", "--kill")),
        ("read_service", ("config", "show")),
    ):
        assert said(user("admin", *arguments), 3) == f"jobctl: this takes the right {right}; alice is operator\n"


def test_watch_shows_changes_in_place_until_ctrl_c(root: Jobctl) -> None:
    terminal = Terminal(root, "admin", "status", "--watch")
    until(lambda: b"SERVING" in terminal.output, "the status is shown")
    said(root("admin", "stop"))
    until(lambda: b"STOPPED" in terminal.output, "the change is shown")
    said(root("admin", "start"))
    terminal.type("\x03")
    assert terminal.wait() == 130
    assert b"\x1b[1A" in terminal.output  # the cursor went up: the same lines again
    assert b"Traceback" not in terminal.output


def test_watch_without_a_terminal_is_a_line_of_json_each_time(root: Jobctl) -> None:
    process = root.start("admin", "status", "--watch", "-o", "json")
    assert process.stdout is not None
    lines = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.terminate()
    process.communicate()
    assert {line["state"] for line in lines} == {"SERVICE_STATE_SERVING"}
