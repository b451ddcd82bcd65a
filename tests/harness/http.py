"""A program that answers HTTP, run for a test, and what it answers."""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.harness.wait import until

SECONDS = 30.0


def answer(url: str, **query: str | list[str]) -> Any:
    """The JSON that a GET is answered with, whatever the status; None while nobody answers."""
    full = f"{url}?{urllib.parse.urlencode(query, doseq=True)}" if query else url
    try:
        with urllib.request.urlopen(full, timeout=SECONDS) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return json.load(error)
    except (urllib.error.URLError, ConnectionError):
        return None


def answers(url: str) -> bool:
    """Whether a GET is answered well."""
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


@contextlib.contextmanager
def program(
    command: list[str | Path], *, ready: str, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs it in a folder of its own until `ready` is answered, and ends it after. What it prints is in `output`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )

    def is_ready() -> bool:
        assert process.poll() is None, (folder / "output").read_text(errors="replace")
        return answers(ready)

    try:
        until(is_ready, f"{command[0]} answers at {ready}", 120)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
