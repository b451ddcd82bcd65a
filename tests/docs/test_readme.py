"""What the README shows works as it is shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.harness.service import Service

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
IDS = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
TIMES = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d|\d+\.\d\ds")


def shown(block: str) -> list[tuple[str, str]]:
    """(command, output) of a console block."""
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [(command, output) for command, _, output in (part.partition("\n") for part in parts)]


def test_the_quick_start_prints_what_it_says(shared_service: Service, tmp_path: Path) -> None:
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(tmp_path),
        "JOBCTL_SERVER": f"localhost:{shared_service.port}",
    }
    folder = tmp_path / "checkout"
    (folder / "var").mkdir(parents=True)
    (folder / "var" / "pki").symlink_to(shared_service.pki)
    name = ""
    for command, expected in shown(blocks[1])[1:]:
        wanted = IDS.sub(name, command)
        done = subprocess.run(
            ["bash", "-c", wanted], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        found = IDS.search(done.stdout)
        name = name or (found.group() if found else "")
        assert done.stderr == "", wanted
        assert plain(done.stdout, shared_service) == plain(expected, shared_service), wanted


def plain(text: str, service: Service) -> str:
    """Without what differs from run to run; columns may be wider."""
    text = TIMES.sub("T", IDS.sub("ID", text)).replace(f":{service.port}", ":50051")
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


def test_the_program_runs(shared_service: Service, tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert found is not None
    program = (
        found.group(1)
        .replace("PASSWORD", shared_service.passwords["admin"])
        .replace("localhost:50051", f"localhost:{shared_service.port}")
        .replace("var/pki", str(shared_service.pki))
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "0 b'one\\n'" in done.stdout
    assert "1 b'two'" in done.stdout
    assert "succeeded: 2" in done.stdout


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z]+)`", README))
    assert named <= targets
    assert {"build", "run", "test", "lint", "bench", "clean", "help"} <= targets
