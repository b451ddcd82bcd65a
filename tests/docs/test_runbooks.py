"""What the runbooks and the page on observability tell people to type exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = "".join((ROOT / "docs" / name).read_text() for name in ("runbooks.md", "observability.md"))
COMMANDS = sorted(
    set(re.findall(r"\b((?:jobctl|jobpki|jobworker)(?: [a-z]+)+)", " ".join(re.findall(r"`([^`]+)`", TEXT))))
)
KEYS = sorted(set(re.findall(r"`(?:[^`]*config set )?([a-z]+\.[a-z_]+)(?:=\d\S*)?`", TEXT)))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_exists(command: str) -> None:
    name, *words = command.split()
    words = words[: 2 if words[0] in ("admin", "config") else 1]
    program = Path(sys.executable).with_name(name)
    done = subprocess.run([program, *words, "--help"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_keys_of_the_configuration_exist() -> None:
    documented = set(re.findall(r"^\| `([a-z_]+)`", (ROOT / "docs" / "config.md").read_text(), re.MULTILINE))
    found = [key.partition(".")[2] for key in KEYS if key.partition(".")[0] not in ("alerts", "metrics", "compose")]
    assert len(found) > 5
    assert set(found) <= documented
