"""A real Prometheus scrapes a real service under load: every query of every dashboard, and every rule, has data."""

from __future__ import annotations

import math
import re
import time
import uuid
from typing import Any

import pytest

from tests.harness.http import answer
from tests.harness.wait import until
from tests.observability.conftest import Watched
from tests.observability.repo import dashboards, rules, targets

# What Grafana fills in; the interval is short, as the scrapes are.
FILLED = {"$instance": ".+", "$__rate_interval": "20s", "$__range": "1h"}
SECONDS = 180.0


def filled(text: str, **values: str) -> str:
    """A query with its variables' values in it."""
    for name, value in {**FILLED, **values}.items():
        text = text.replace(name, value)
    assert not re.search(r"\$[a-z_]", text), text
    return text


def ask(watched: Watched, path: str, **query: str) -> Any:
    """What Prometheus says; it must be content with the question."""
    said = answer(f"{watched.prometheus}/api/v1/{path}", **query)
    assert said is not None
    assert said["status"] == "success", f"{query}: {said}"
    return said["data"]


def has_numbers(watched: Watched, expr: str, *, is_range: bool) -> bool:
    """Whether a query's answer has a number in it: NaN is a line that nobody sees."""
    now = time.time()
    if is_range:
        data = ask(watched, "query_range", query=expr, start=str(now - 30), end=str(now), step="1")
    else:
        data = ask(watched, "query", query=expr)
    values = [v for series in data["result"] for v in series.get("values", [series.get("value")])]
    return any(not math.isnan(float(value)) for _, value in values)


def test_every_query_of_every_dashboard_has_data(watched: Watched) -> None:
    queries = targets("prometheus")
    assert len(queries) > 70
    left = {(where, filled(target["expr"]), target["range"]) for where, _, target in queries}

    def all_answered() -> bool:
        assert watched.load.problem is None, watched.load.problem
        left.difference_update({q for q in left if has_numbers(watched, q[1], is_range=q[2])})
        return not left

    try:
        until(all_answered, "an answer to every query", SECONDS)
    except AssertionError as error:
        raise AssertionError(f"{error}; without data: {sorted(left)}") from None


def test_a_query_about_nothing_is_found_out(watched: Watched) -> None:
    assert not has_numbers(watched, "sum(rate(jobworker_no_such_metric_total[20s]))", is_range=True)
    assert not has_numbers(watched, "vector(0) / 0", is_range=False)
    with pytest.raises(AssertionError, match="parse error"):
        has_numbers(watched, "sum(rate(jobworker_jobs_started_total))", is_range=False)


def test_every_recording_rule_has_data(watched: Watched) -> None:
    names = {rule["record"] for rule in rules() if "record" in rule}
    assert len(names) > 5

    def all_there() -> bool:
        names.difference_update({name for name in names if has_numbers(watched, name, is_range=False)})
        return not names

    until(all_there, "data of every recording rule", SECONDS)


def test_every_rule_is_evaluated_without_error(watched: Watched) -> None:
    def known() -> list[dict[str, Any]]:
        return [rule for group in ask(watched, "rules")["groups"] for rule in group["rules"]]

    until(lambda: all(rule["health"] != "unknown" for rule in known()), "the first evaluation", SECONDS)
    assert {rule["name"] for rule in known()} == {rule.get("record", rule.get("alert")) for rule in rules()}
    assert [rule for rule in known() if rule["health"] != "ok"] == []


def test_every_series_that_an_alert_is_made_of_exists(watched: Watched) -> None:
    for rule in rules():
        if "alert" not in rule:
            continue
        names = set(re.findall(r"\b((?:jobworker|grpc)[a-z0-9_:]+|up)\{", rule["expr"]))
        assert names, rule["alert"]
        for name in names:
            query = f'{name}{{job="jobworker"}}'
            until(lambda query=query: ask(watched, "query", query=query)["result"], query, SECONDS)


def test_label_values_that_rules_and_dashboards_name_exist(watched: Watched) -> None:
    exprs = [rule["expr"] for rule in rules()] + [target["expr"] for _, _, target in targets("prometheus")]
    named = {pair for expr in exprs for pair in re.findall(r'([a-z_]+)(?:=|!=)"([^"$]+)"', expr)}
    named |= {
        (name, value)
        for expr in exprs
        for name, choice in re.findall(r'([a-z_]+)(?:=~|!~)"([\w|]+)"', expr)
        for value in choice.split("|")
    }
    named = {pair for pair in named if pair[0] not in ("alertname", "alertstate")}
    assert len(named) > 10
    for name, value in named:
        found = until(lambda name=name: ask(watched, f"label/{name}/values"), name, SECONDS)
        assert value in found, f'{name}="{value}"'


def test_the_dashboards_find_the_instances(watched: Watched) -> None:
    variable = next(v for v in dashboards()["overview"]["templating"]["list"] if v["name"] == "instance")
    selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]).groups()  # type: ignore[union-attr]
    series = until(lambda: ask(watched, "series", **{"match[]": selector}), selector, SECONDS)
    assert {one[label] for one in series} == {f"127.0.0.1:{watched.service.metrics_port}"}


@pytest.mark.parametrize("typed", ["{0}", " {0} ", "{1}"], ids=["dashes", "pasted with blanks", "a trace id"])
def test_a_correlation_id_becomes_a_batch_and_a_trace(watched: Watched, typed: str) -> None:
    batch = str(uuid.uuid4())
    for name, expected in (("batch", batch), ("trace", batch.replace("-", ""))):
        text = typed.format(batch, batch.replace("-", ""))
        assert _variable(watched, name, text) == expected


@pytest.mark.parametrize("typed", ["", "some words"])
def test_what_is_no_correlation_id_is_no_batch(watched: Watched, typed: str) -> None:
    assert _variable(watched, "batch", typed) == _variable(watched, "trace", typed) == "none"


def test_dots_lead_to_batches(watched: Watched) -> None:
    exprs = {filled(target["expr"]) for _, _, target in targets("prometheus") if target.get("exemplar")}

    def traces() -> bool:
        now = time.time()
        for expr in exprs:
            found = ask(watched, "query_exemplars", query=expr, start=str(now - 600), end=str(now))
            ids = {e["labels"]["trace_id"] for series in found for e in series["exemplars"]}
            if not ids:
                return False
            assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids), expr
        return True

    until(traces, f"exemplars of {exprs}", SECONDS)


@pytest.mark.root
def test_refused_logins_reach_alertmanager(watched: Watched, alertmanager: str) -> None:
    """From the service by way of Prometheus and its rules: no part is made up."""

    def alert() -> Any:
        assert watched.load.problem is None, watched.load.problem
        all_alerts = answer(f"{alertmanager}/api/v2/alerts") or []
        found = [a for a in all_alerts if a["labels"]["alertname"] == "JobworkerLoginAttack"]
        if not found:
            for _ in range(5):
                watched.load.refused_login()
        return found

    found = until(alert, "the alert", SECONDS)[0]
    assert found["receivers"] == [{"name": "note"}]
    assert re.match(r"[\d.]+ logins to 127\.0\.0\.1:\d+ were refused", found["annotations"]["description"])


def _variable(watched: Watched, name: str, typed: str) -> str:
    """As Grafana fills a hidden variable: the query, and the first match of its pattern in the series' text."""
    variable = next(v for v in dashboards()["batches"]["templating"]["list"] if v["name"] == name)
    query = re.fullmatch(r"query_result\((.+)\)", variable["query"])[1]  # type: ignore[index]
    (result,) = ask(watched, "query", query=query.replace("$correlation_id", typed))["result"]
    labels = ",".join(f'{key}="{value}"' for key, value in result["metric"].items())
    return re.search(variable["regex"].strip("/"), f"{{{labels}}}")[1]  # type: ignore[index]
