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
from jobworker.ctl.certificate import certificate_of
from jobworker.ctl.tokens import TokenFile
from jobworker.ctl.visible import VisibleBytes, visible, visible_json
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
    ["admin", "retention", "--dry-run"], ["whoami"], ["whoami", "-o", "json"],
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
    key_id = certificate_of(service.pki / "clients/alice").key_id
    TokenFile(cache / "jobworker", address=f"localhost:{service.port}", user="alice", key_id=key_id).save(token)
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


# Each control of C0 and C1, the latter as a character and as a byte; an escape; text; what is not UTF-8, and its begin.
PRINTED = (
    b"".join(bytes([code]) for code in range(0x20) if code not in b"\t\n")
    + "".join(map(chr, range(0x7F, 0xA0))).encode()
    + bytes(range(0x80, 0xA0))
    + b"\x1b[31mred\x1b[0m\r50%\r\n"
    + "a\tZürich 北京 👩‍💻 \u202egnp.\u2069\n".encode()
    + b"\xff\xc3(\xed\xa0\x80 \xe5\x8c"
)
PRINTED_SHOWN = (
    "".join({8: r"\x08", 13: r"\r"}.get(code, f"\\x{code:02x}") for code in range(0x20) if code not in b"\t\n")
    + "".join(f"\\x{code:02x}" for code in range(0x7F, 0xA0))
    + "".join(f"\\x{code:02x}" for code in range(0x80, 0xA0))
    + "\\x1b[31mred\\x1b[0m\\r50%\\r\n"
    + "a\tZürich 北京 👩‍💻 \\u202egnp.\\u2069\n"
    + r"\xff\xc3(\xed\xa0\x80 \xe5\x8c"
).encode()


def printf(data: bytes) -> str:
    """A command that prints the bytes."""
    return "printf '" + "".join(f"\\{byte:03o}" for byte in data) + "'"


@pytest.fixture(scope="module")
def printed(jobctl: Jobctl) -> str:
    """A batch that printed all of it, to both of its outputs."""
    batch = jobctl.id_of("--separate", f"{printf(PRINTED)}; {printf(PRINTED)} >&2")
    assert jobctl("wait", batch).returncode == 0
    return batch


def at_terminal(jobctl: Jobctl, *arguments: str) -> bytes:
    """What it shows there, without the carriage returns that the terminal itself puts before line feeds (ONLCR)."""
    terminal = Terminal(jobctl, *arguments)
    assert terminal.wait() == 0
    return terminal.output.replace(b"\r\n", b"\n")


@pytest.mark.parametrize("options", [["logs"], ["logs", "-f"]], ids=" ".join)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_log_is_shown_at_a_terminal_and_steers_nothing(
    jobctl: Jobctl, printed: str, options: list[str], stream: str
) -> None:
    assert at_terminal(jobctl, *options, "--stream", stream, printed) == PRINTED_SHOWN
    assert at_terminal(jobctl, *options, "--raw", "--stream", stream, printed) == PRINTED


def test_a_log_is_exact_on_a_pipe(jobctl: Jobctl, printed: str) -> None:
    for options in ([], ["--raw"]):
        done = jobctl("logs", *options, printed)
        assert (done.stdout, done.stderr) == (PRINTED, PRINTED)


def test_what_a_job_prints_is_shown_while_it_runs_and_steers_nothing(jobctl: Jobctl) -> None:
    command = "; ".join(printf(bytes([byte])) for byte in PRINTED)
    # Before it comes the bar of the submission.
    assert at_terminal(jobctl, "run", command).endswith(b"K" + PRINTED_SHOWN)
    assert at_terminal(jobctl, "run", "--raw", command).endswith(b"K" + PRINTED)


def test_lines_with_a_prefix_steer_nothing(jobctl: Jobctl) -> None:
    file = "printf '\\033[2J\\303'; exec printf '\\274\\n\\033'\ntrue\n"
    batch = jobctl("submit", "-f", "-", stdin=file.encode()).stdout.decode().strip()
    assert jobctl("wait", batch).returncode == 0
    assert at_terminal(jobctl, "logs", batch) == "[0] \\x1b[2Jü\n[0] \\x1b\n".encode()


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_character_or_a_sequence_in_two_pieces_is_shown_as_in_one(size: int) -> None:
    shown = VisibleBytes("utf-8")
    pieces = [PRINTED[i : i + size] for i in range(0, len(PRINTED), size)]
    assert b"".join(map(shown.feed, pieces)) + shown.feed(b"", last=True) == PRINTED_SHOWN


def test_a_terminal_that_is_not_utf_8_gets_what_it_has_and_none_of_its_controls() -> None:
    # In UTF-8, this letter ends with 0x9b, which is CSI to a terminal of Latin-1.
    assert VisibleBytes("iso8859-1").feed("Û北\x9b".encode()) == b"\xdb\\u5317\\x9b"


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
