"""Builds Go programs from their published sources, each once, into a cache outside of the checkout. It takes Go and the
module proxy."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.harness.toolcache import cached, scratch

SMALL = ["-trimpath", "-ldflags", "-s -w"]


def installed(name: str, source: str) -> Path:
    """The program `name` of `go install SOURCE`."""
    program = cached(name, source.encode())
    if not program.exists():
        with scratch() as folder:
            run(["go", "install", *SMALL, source], GOBIN=str(folder))
            (folder / name).rename(program)
    return program


def tool(name: str, source: str, *, replaced: str = "") -> Path:
    """A program that `go install` refuses, since its module has replacements: built as a tool of another module, which
    repeats the one it needs."""
    program = cached(name, *(part.encode() for part in (source, replaced) if part))
    if not program.exists():
        with scratch() as folder:
            (folder / "go.mod").write_text(f"module {name}\n\ngo 1.25\n")
            if replaced:
                run(["go", "mod", "edit", "-replace", replaced], cwd=folder)
            run(["go", "get", "-tool", source], cwd=folder)
            compiled(folder, program, source.partition("@")[0])
    return program


def compiled(folder: Path, program: Path, package: str = ".") -> None:
    """Builds a package of the module in `folder`. Published by rename: a build that was cut, or another beside it,
    leaves no half of a program."""
    run(["go", "build", "-mod=mod", *SMALL, "-o", "program", package], cwd=folder)
    (folder / "program").rename(program)


def run(command: list[str], *, cwd: Path | None = None, **environment: str) -> None:
    """Fails with what the command said."""
    env = {**os.environ, **environment}
    done = subprocess.run(command, check=False, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
