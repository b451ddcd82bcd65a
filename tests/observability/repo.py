"""The repository's own dashboards and rules, read from its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DASHBOARDS = DOCKER / "grafana" / "dashboards"
RULES = DOCKER / "prometheus" / "rules"
BOARDS = ("overview", "batches", "security")


def dashboards() -> dict[str, Any]:
    """By name."""
    return {name: json.loads((DASHBOARDS / f"{name}.json").read_text()) for name in BOARDS}


def panels() -> list[Any]:
    """(dashboard, panel) of all but the headings."""
    return [(n, p) for n, board in dashboards().items() for p in board["panels"] if p["type"] != "row"]


def targets(source: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(dashboard: panel, panel, target) of each query to a kind of data source."""
    return [
        (f"{name}: {panel['title']}", panel, target)
        for name, panel in panels()
        for target in panel.get("targets", [])
        if target["datasource"]["type"] == source
    ]


def rules() -> list[dict[str, Any]]:
    """Each, recording or alerting."""
    files = [yaml.safe_load(path.read_text()) for path in sorted(RULES.glob("*.yml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]
