"""docs/metrics.md says what there is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobworker.server.telemetry.docs import markdown
from jobworker.server.telemetry.names import ALL, Spec

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
MARK = "<!-- what follows is made by `jobworker metrics docs` -->\n"


def test_the_table_is_what_the_command_prints() -> None:
    command = [sys.executable, "-m", "jobworker.server.cli", "metrics", "docs"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert DOCS.read_text().partition(MARK)[2] == printed == f"{markdown()}\n"


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)
def test_each_metric_is_named_by_the_rules(spec: Spec) -> None:
    assert spec.name.endswith("_total") == (spec.kind == "counter")
    assert bool(spec.buckets) == (spec.kind == "histogram")
    assert sorted(set(spec.buckets)) == list(spec.buckets)
    if spec.unit in ("seconds", "bytes"):
        assert spec.unit in spec.name
    assert spec.help.endswith(".")
