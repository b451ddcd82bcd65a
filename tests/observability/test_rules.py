"""Alerts, recording rules and the configurations of Prometheus and Alertmanager, by Prometheus' own programs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.harness.prometheus import prometheus_programs
from tests.observability.repo import DOCKER, ROOT, rules

UNIT_TESTS = sorted((DOCKER / "prometheus" / "tests").glob("*.yml"))
ALERTS = [rule for rule in rules() if "alert" in rule]


def run(program: str, *arguments: str | Path) -> str:
    """Runs one of the programs, which must succeed; what it printed."""
    command = [prometheus_programs() / program, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=DOCKER)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


def test_prometheus_takes_its_configuration_and_finds_the_rules_in_it() -> None:
    run("promtool", "check", "config", "--lint=all", "--lint-fatal", DOCKER / "prometheus" / "prometheus.yml")


@pytest.mark.parametrize("tests", UNIT_TESTS, ids=lambda path: path.stem)
def test_each_rule_fires_when_it_should_and_not_otherwise(tests: Path) -> None:
    run("promtool", "test", "rules", tests)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_is_tested_both_firing_and_not(alert: dict[str, object]) -> None:
    name = alert["alert"]
    fires, quiet = 0, 0
    for path in UNIT_TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test.get("alert_rule_test", []):
                if case["alertname"] == name:
                    fires, quiet = fires + bool(case.get("exp_alerts")), quiet + (not case.get("exp_alerts"))
            for case in test.get("promql_expr_test", []):
                if f'alertname="{name}"' in case["expr"]:
                    samples = case.get("exp_samples", [])
                    # A test that expects one of several instances says of the others that they are quiet.
                    others = len({re.search(r'instance="(\S+?)"', s["series"])[1] for s in test["input_series"]})  # type: ignore[index]
                    fires, quiet = fires + bool(samples), quiet + (len(samples) < others)
    assert fires
    assert quiet


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_means_and_where_help_is(alert: dict[str, dict[str, str]]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    file, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    titles = re.findall(r"^## (.+)$", (ROOT / file).read_text(), re.MULTILINE)
    assert anchor in {re.sub(r"[^a-z0-9 -]", "", part.lower()).strip().replace(" ", "-") for part in titles}


def test_alertmanager_takes_its_configuration() -> None:
    run("amtool", "check-config", DOCKER / "alertmanager" / "alertmanager.yml")


@pytest.mark.parametrize(("severity", "receiver"), [("critical", "page"), ("warning", "note")])
def test_what_is_critical_pages_and_the_rest_leaves_a_note(severity: str, receiver: str) -> None:
    file = f"--config.file={DOCKER / 'alertmanager' / 'alertmanager.yml'}"
    assert run("amtool", "config", "routes", "test", file, f"severity={severity}").split() == [receiver]
