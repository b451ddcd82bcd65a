"""Whatever a service, a batch or a file says: `jobctl` shows it, and the terminal is steered by nobody else."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobworker.client import Token
from jobworker.ctl.tokens import TokenFile
from jobworker.ctl.visible import visible, visible_json
from tests.harness.jobctl import Jobctl, Terminal
from tests.harness.lying import LyingService
from tests.harness.pki import make_pki
from tests.harness.service import Service
from tests.harness.wait import until

CTL = Path(__file__).parents[2] / "service/jobworker/ctl"
# A title for the window, a bell, red by C1, a cleared screen, text that runs backwards, a rubbed out one; and markup.
HOSTILE = "\x1b]0;owned\x07\x9b31mred\x1b[2J\u202egnp\u2066.\x7f\b[red]x"
SHOWN = r"\x1b]0;owned\x07\x9b31mred\x1b[2J\u202egnp\u2066.\x7f\x08[red]x"
STEERS = ["\x1b]", "\x07", "\x9b", "\x1b[2J", "\u202e", "\u2066", "\x7f", "\b"]
ID = "01940000-0000-7000-8000-000000000000"
READS = [
    ["get", ID], ["get", "-o", "json", ID], ["ls"], ["ls", "-o", "json"], ["admin", "status"],
    ["admin", "status", "-o", "json"], ["admin", "config", "show"], ["admin", "config", "show", "-o", "json"],
    ["admin", "retention", "--dry-run"],
]  # fmt: skip
DEEDS = [
    ["submit", "true"], ["submit", "-o", "json", "true"], ["run", "true"], ["logs", ID], ["wait", ID], ["cancel", ID],
    ["cancel", "-o", "json", ID], ["admin", "stop"], ["admin", "start"], ["admin", "config", "set", "log_level=info"],
]  # fmt: skip


def harmless(output: bytes) -> str:
    """What was shown, in which nothing steers."""
    text = output.decode()
    assert [sequence for sequence in STEERS if sequence in text] == []
    return text


def shown(jobctl: Jobctl, *arguments: str) -> str:
    """What a command shows at a terminal."""
    terminal = Terminal(jobctl, *arguments, COLUMNS="300")
    terminal.wait()
    text = harmless(terminal.output)
    assert "a bug:" not in text
    return text


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pki(tmp_path_factory.mktemp("lying") / "pki").root


def logged_in(service: LyingService, cache: Path) -> Jobctl:
    service.passwords["alice"] = "any"
    jobctl = Jobctl(service, cache)  # type: ignore[arg-type]  # all that it takes is a port and a PKI
    token = Token("t", datetime.now(UTC) + timedelta(hours=1))
    TokenFile(cache / "jobworker", address=f"localhost:{service.port}", user="alice").save(token)
    return jobctl


@pytest.fixture
def lying(pki: Path, tmp_path: Path) -> Iterator[Jobctl]:
    """A user of a service in whose answers every text is hostile."""
    with LyingService(pki, HOSTILE) as service:
        yield logged_in(service, tmp_path / "cache")


@pytest.fixture
def refusing(pki: Path, tmp_path: Path) -> Iterator[Jobctl]:
    """A user of a service that refuses each call with a hostile text."""
    with LyingService(pki, HOSTILE, refuses=True) as service:
        yield logged_in(service, tmp_path / "cache")


@pytest.mark.parametrize("command", READS, ids=" ".join)
def test_what_a_service_tells_is_shown_and_steers_nothing(lying: Jobctl, command: list[str]) -> None:
    text = shown(lying, *command)
    assert (r"\u001b]0;owned" if "json" in command else r"\x1b]0;owned") in text


@pytest.mark.parametrize("command", DEEDS, ids=" ".join)
def test_what_a_service_answers_to_a_deed_steers_nothing(lying: Jobctl, command: list[str]) -> None:
    shown(lying, *command)


@pytest.mark.parametrize("command", [*READS, *DEEDS, ["login"]], ids=" ".join)
def test_a_refusals_words_are_shown_and_steer_nothing(refusing: Jobctl, command: list[str]) -> None:
    refusing.environment["JOBCTL_PASSWORD"] = "any"
    assert SHOWN in shown(refusing, *command)


def test_a_status_that_is_watched_steers_nothing(lying: Jobctl) -> None:
    terminal = Terminal(lying, "admin", "status", "--watch", COLUMNS="300")
    until(lambda: rb"\x1b]0;owned" in terminal.output, "the first picture")
    terminal.type("\x03")
    assert terminal.wait() == 130
    harmless(terminal.output)


def test_values_are_the_same_for_programs(lying: Jobctl) -> None:
    batch = json.loads(lying("get", "-o", "json", ID).stdout)
    assert batch["name"] == HOSTILE
    assert batch["labels"] == {HOSTILE: HOSTILE}


def test_a_program_that_cannot_start_is_named_and_steers_nothing(jobctl: Jobctl) -> None:
    terminal = Terminal(jobctl, "run", f"/nowhere/{HOSTILE}", "argument")
    assert terminal.wait() == 1
    assert f"/nowhere/{SHOWN}" in harmless(terminal.output)
    terminal = Terminal(jobctl, "run", "--cwd", f"/nowhere/{HOSTILE}", "true")
    assert terminal.wait() == 1
    assert f"/nowhere/{SHOWN}" in harmless(terminal.output)


def test_a_batch_with_a_hostile_command_is_shown_by_every_command(jobctl: Jobctl) -> None:
    batch = jobctl.id_of(f": '{HOSTILE}'; true")
    for command in (
        ["get", batch],
        ["ls", "-n", "3"],
        ["wait", batch],
        ["cancel", batch],
        ["get", "-o", "json", batch],
    ):
        shown(jobctl, *command)


def test_the_story_of_a_batch_steers_nothing_whatever_is_in_the_files(
    jobctl: Jobctl, shared_service: Service, tmp_path: Path
) -> None:
    batch = jobctl.id_of("--", f"/nowhere/{HOSTILE}", "argument")
    assert jobctl("wait", batch).returncode == 1
    stored = until(lambda: next((shared_service.data / "batches").rglob(batch), None), "it is stored")
    data, logs = tmp_path / "data", tmp_path / f"logs{HOSTILE.replace('/', '')}"
    shutil.copytree(stored, data / stored.relative_to(shared_service.data))
    logs.mkdir()
    line = {
        "timestamp": "2026-01-01T00:00:00Z",
        "level": HOSTILE,
        "event": HOSTILE,
        "correlation_id": batch,
        "a": HOSTILE,
    }
    (logs / "service.jsonl").write_text(json.dumps(line, ensure_ascii=True) + "\n")
    (logs / f"service.jsonl.{HOSTILE}.gz").write_bytes(b"no gzip")
    command = ["trace", "--data", str(data), "--logs", str(logs), batch]
    text = shown(jobctl, *command)
    assert text.count(r"\x1b]0;owned") >= 4
    assert "cannot be read, and was passed over" in text
    shown(jobctl, *command, "-o", "json")
    shown(jobctl, "trace", "--data", str(data / HOSTILE), "--logs", str(logs), batch)


def test_the_bytes_of_logs_are_a_jobs_own_and_stay_as_they_are(jobctl: Jobctl) -> None:
    raw = HOSTILE.encode()
    escapes = "".join(f"\\{byte:03o}" for byte in raw)
    batch = jobctl.id_of(f"printf '{escapes}'")
    assert jobctl("wait", batch).returncode == 0
    terminal = Terminal(jobctl, "logs", batch)
    assert terminal.wait() == 0
    assert terminal.output == raw
    assert jobctl("run", f"printf '{escapes}'").stdout == raw


def test_a_wrong_command_line_steers_nothing(jobctl: Jobctl) -> None:
    for arguments in ([HOSTILE], ["get", f"--{HOSTILE}"], ["submit", "-f", f"/nowhere/{HOSTILE}"], ["trace", HOSTILE],
                      ["admin", "config", "set", HOSTILE], ["submit", "--env", HOSTILE, "true"]):  # fmt: skip
        assert Terminal(jobctl, *arguments).wait() == 2
        harmless(jobctl(*arguments).stderr)


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, 0x2028, 0x2029,
                                  *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF, 0xE0041])  # fmt: skip
def test_each_control_character_is_written_out(code: int) -> None:
    assert visible(f"a{chr(code)}b").isprintable()
    assert visible(f"a{chr(code)}b").startswith("a\\")
    text = visible_json(json.dumps(f"a{chr(code)}b", ensure_ascii=False))
    assert text.isprintable()
    assert json.loads(text) == f"a{chr(code)}b"


def test_text_of_all_languages_stays_as_it_is() -> None:
    for text in ("Zürich", "北京", "مى‌خواهم", "שלום", "👩‍💻", "a\u00a0b", "\\x1b"):
        assert visible(text) == text


def test_nothing_is_printed_but_through_the_function_that_makes_it_visible() -> None:
    printing = {"output.py", "exits.py"}  # where that is done; cli.py prints the version and the help
    for path in CTL.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and path.name not in printing | {"cli.py"}:
                called = ast.unparse(node.func)
                assert not re.fullmatch(r"print|typer\.echo|sys\.std(out|err)\.write|rows\.add_row", called), path
