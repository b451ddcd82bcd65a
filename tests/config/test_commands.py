"""`jobworker config`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from jobworker.server.config.docs import markdown

DOCS = Path(__file__).parents[2] / "docs" / "config.md"
MARK = "<!-- what follows is made by `jobworker config docs` -->\n"


def jobworker(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobworker.server.cli", "config", *arguments],
        input=stdin, capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=60,
    )  # fmt: skip


def test_check_points_at_line_and_key(tmp_path: Path) -> None:
    file = tmp_path / "jobworker.toml"
    file.write_text("[jobs]\nrunning = 0\n[grpc]\nprot = 3\n")
    result = jobworker("check", str(file))
    assert result.returncode == 65
    assert result.stdout == ""
    assert sorted(result.stderr.splitlines()) == [
        f"jobworker: {file}:2: jobs.running: input should be greater than or equal to 1",
        f"jobworker: {file}:4: grpc.prot: there is no such key; is it grpc.port?",
    ]


def test_check_says_good_of_a_good_file_with_or_without_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "jobworker.toml"
    file.write_text("[jobs]\nparallelism = 8\n")
    assert jobworker("check", str(file)).stdout == f"{file}: good\n"
    assert jobworker("check", "-", stdin="log_level = 'debug'\n").stdout == "-: good\n"
    contradicted = {"JOBWORKER_JOBS__RUNNING": "4"}
    assert "jobs.parallelism" in jobworker("check", str(file), **contradicted).stderr
    assert jobworker("check", str(file), "--no-environment", **contradicted).returncode == 0


def test_show_prints_each_value_and_where_it_came_from(tmp_path: Path) -> None:
    file = tmp_path / "jobworker.toml"
    file.write_text(f"[jobs]\nrunning = 7\n[paths]\ndata = '{tmp_path}'\n")
    record = {"generation": 3, "digest": "", "updates": {"jobs.grace_seconds": 9}}
    (tmp_path / "config.json").write_text(json.dumps(record))
    environment = {"JOBWORKER_LOG_LEVEL": "error"}
    shown = json.loads(jobworker("show", "-c", str(file), "-o", "json", **environment).stdout)
    assert shown["jobs.running"] == {"value": 7, "source": "file", "live": True}
    assert shown["log_level"] == {"value": "error", "source": "environment", "live": True}
    assert shown["jobs.grace_seconds"] == {"value": 9.0, "source": "update", "live": True}
    assert shown["grpc.port"] == {"value": 50051, "source": "default", "live": False}
    rows = [line.split() for line in jobworker("show", "-c", str(file), **environment).stdout.splitlines()]
    assert ["jobs.running", "7", "file"] in rows
    assert ["jobs.timeout_seconds", "none", "default"] in rows


def test_show_of_an_invalid_configuration_is_its_problems(tmp_path: Path) -> None:
    result = jobworker("show", "-c", str(tmp_path / "no.toml"))
    assert result.returncode == 65
    assert result.stderr == f"jobworker: {tmp_path}/no.toml: there is no such file\n"


def test_the_page_about_keys_is_fresh() -> None:
    _, mark, table = DOCS.read_text().partition(MARK)
    assert mark
    assert table.strip() == markdown().strip(), "write the output of `jobworker config docs` into docs/config.md"
