"""The dashboards as files: fresh, of the shape that Grafana's own types ask for, and laid out to be read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness import grafana
from tests.observability.repo import BOARDS, DASHBOARDS, DOCKER, ROOT, RULES, dashboards, panels, targets

COPIES = ROOT / "charts" / "jobworker" / "files"


def test_what_is_committed_is_what_the_sources_say(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "boards", str(tmp_path)]
    subprocess.run(command, check=True, cwd=DOCKER / "grafana", env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    for name in BOARDS:
        fresh, kept = (tmp_path / f"{name}.json").read_text(), (DASHBOARDS / f"{name}.json").read_text()
        assert fresh == kept, f"`make dashboards` writes {name}.json anew"


def test_the_chart_has_the_same_dashboards_and_rules() -> None:
    for folder, name in ((DASHBOARDS, "dashboards"), (RULES, "rules")):
        here = {path.name: path.read_text() for path in folder.iterdir()}
        there = {path.name: path.read_text() for path in (COPIES / name).iterdir()}
        assert here == there, "`make dashboards` copies them"


@pytest.mark.node
def test_grafanas_own_types_take_them() -> None:
    assert grafana.type_errors(dashboards()) == []


@pytest.mark.node
def test_the_check_by_grafanas_types_finds_what_is_misspelt() -> None:
    board = dashboards()["overview"]
    board["panels"][1]["titel"] = board["panels"][1].pop("title")
    board["panels"][2]["options"]["graphMode"] = "nothing"
    errors = grafana.type_errors({"overview": board})
    assert len(errors) == 2
    assert "'\"titel\"' does not exist" in errors[0] + errors[1]
    assert '"nothing"' in errors[0] + errors[1]


@pytest.mark.node
def test_grafana_knows_every_unit() -> None:
    units = {panel["fieldConfig"]["defaults"]["unit"] for _, panel in panels() if "unit" in _defaults(panel)}
    assert len(units) > 5
    assert grafana.unknown_units([*units, "furlongs-per-fortnight"]) == ["furlongs-per-fortnight"]


@pytest.mark.parametrize("name", BOARDS)
def test_no_panel_lies_over_another_or_leaves_the_grid(name: str) -> None:
    places = [(p["title"], p["gridPos"]) for p in dashboards()[name]["panels"]]
    for title, place in places:
        assert place["x"] + place["w"] <= 24, title
    for (one, a), (other, b) in combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, f"{one} and {other}"


@pytest.mark.parametrize("name", BOARDS)
def test_rows_are_filled_from_left_to_right(name: str) -> None:
    lines: dict[int, int] = {}
    for panel in dashboards()[name]["panels"]:
        place = panel["gridPos"]
        assert place["x"] == lines.get(place["y"], 0), panel["title"]
        lines[place["y"]] = place["x"] + place["w"]
    assert set(lines.values()) == {24}


def test_each_panel_says_what_it_shows() -> None:
    for name, panel in panels():
        assert panel["title"], name
        assert re.fullmatch(r".{15,}[.]", panel.get("description", "")), panel["title"]
        if panel["type"] in ("timeseries", "stat"):
            assert _defaults(panel)["unit"], panel["title"]
        if panel["type"] == "stat":
            assert _defaults(panel)["thresholds"]["steps"], panel["title"]


def test_no_two_panels_of_a_dashboard_have_one_id() -> None:
    for board in dashboards().values():
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)


def test_each_query_goes_to_a_data_source_that_can_be_chosen() -> None:
    for name, panel in panels():
        for target in panel.get("targets", []):
            kind, uid = target["datasource"]["type"], target["datasource"]["uid"]
            assert uid == f"${{{kind}}}", f"{name}: {panel['title']}"
            variables = {v["name"]: v for v in dashboards()[name]["templating"]["list"]}
            assert variables[kind]["type"] == "datasource"
            assert variables[kind]["query"] == kind


def test_each_variable_that_a_query_uses_is_there() -> None:
    for name, board in dashboards().items():
        known = {variable["name"] for variable in board["templating"]["list"]}
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                used = re.findall(r"\$\{?([a-z_]\w*)", target.get("expr", "") + target.get("query", ""))
                assert {u for u in used if not u.startswith("__")} <= known, f"{name}: {panel['title']}"


def test_dots_that_open_traces_are_drawn_for_histograms_alone() -> None:
    with_dots = [target["expr"] for _, _, target in targets("prometheus") if target.get("exemplar")]
    assert len(with_dots) >= 5
    assert all(expr.startswith("histogram_quantile") for expr in with_dots)


def test_provisioned_data_sources_have_the_names_that_dashboards_and_links_use() -> None:
    file = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/jobworker.yaml").read_text())
    sources = {source["uid"]: source for source in file["datasources"]}
    assert set(sources) == {"prometheus", "jaeger", "loki", "alertmanager"}
    exemplars = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert {"name": "trace_id", "datasourceUid": "jaeger"}.items() <= exemplars[0].items()
    assert sources["jaeger"]["jsonData"]["tracesToLogsV2"]["datasourceUid"] == "loki"
    assert sources["loki"]["jsonData"]["derivedFields"][0]["datasourceUid"] == "jaeger"
    boards = {board["uid"]: board for board in dashboards().values()}
    variables = {variable["name"] for variable in boards["jobworker-batches"]["templating"]["list"]}
    for link in (exemplars[1], sources["loki"]["jsonData"]["derivedFields"][1]):
        uid, _, query = link["url"].removeprefix("/d/").partition("?")
        assert uid in boards
        assert query.partition("=")[0].removeprefix("var-") in variables


def _defaults(panel: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = panel.get("fieldConfig", {}).get("defaults", {})
    return found
