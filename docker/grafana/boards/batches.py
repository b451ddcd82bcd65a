"""Batches: everything about one CorrelationID, its trace, its log lines and when what happened."""

from __future__ import annotations

import json
from urllib.parse import quote

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models

from boards.parts import PROMETHEUS, STREAM, board, graph, lines, log_bars, prose, quantiles, row
from boards.tracing import newest, trace

# A CorrelationID without its dashes is the batch's trace id. Grafana changes no variable's text, but Prometheus does:
# label_replace takes the id apart, with dashes or without, and puts it together both ways.
_PARTS = " *(.{8})-?(.{4})-?(.{4})-?(.{4})-?(.{12}) *"
# Grafana's Explore, with the trace in it: its state is JSON in the address.
_PANES = {"a": {"datasource": "${jaeger}", "queries": [{"refId": "A", "query": "${trace}"}]}}
_STATE = quote(json.dumps(_PANES)).replace("%24%7B", "${").replace("jaeger%7D", "jaeger}").replace("trace%7D", "trace}")
_EXPLORE = f"/explore?schemaVersion=1&orgId=1&panes={_STATE}"
_EITHER = f'{STREAM} | correlation_id="$batch" or trace_id="$trace" or caller_trace_id="$trace"'


def build() -> dashboard.Dashboard:
    """The dashboard."""
    made = (
        board("Jobworker / Batches", "jobworker-batches", "Everything about one batch, by its CorrelationID.")
        .time("now-24h", "now")
        .with_variable(
            dashboard.TextBoxVariable("correlation_id")
            .label("CorrelationID")
            .description("Of a batch, with its dashes or, as a trace id, without.")
            .default_value("")
        )
        .with_variable(_shape("batch", "$1-$2-$3-$4-$5"))
        .with_variable(_shape("trace", "$1$2$3$4$5"))
    )
    made = row(made, "The batch", _one())
    return row(made, "Find one", _find())


def _one() -> list[Builder[models.Panel]]:
    return [
        prose(
            "Batch $batch",
            "Where to go from here with this batch.",
            "The CorrelationID goes into the field above. Without its dashes it is the trace id: "
            f"[open the trace in Explore]({_EXPLORE}).\n\n"
            "On the command line: `jobctl get $batch`, `jobctl logs $batch`; on the server's machine, from files "
            "alone: `jobctl trace $batch`.",
        ),
        trace(
            "Trace",
            "Acceptance, each job's wait and run with its end, and streams that followed. A span opens its log lines.",
            "$trace",
        ),
        log_bars(
            "Timeline",
            "What happened when: the batch's log lines by event.",
            f"sum by (event) (count_over_time({_EITHER} [$__auto]))",
            legend="{{event}}",
        ),
        lines(
            "Log of the service about this batch",
            "Lines with its CorrelationID or trace id, newest first. What the jobs printed: jobctl logs.",
            _EITHER,
        ),
    ]


def _find() -> list[Builder[models.Panel]]:
    return [
        newest("Newest traces", "Of the service; a click opens one. Those of batches are named so."),
        graph(
            "Run time",
            "Of jobs. A dot is a job of one batch, and opens its trace or this page with it.",
            *quantiles("jobworker_job_run_seconds", shares=[0.5, 0.99]),
            unit="s", width=12,
        ),
        graph(
            "Queue wait",
            "Of jobs. A dot is a job of one batch, and opens its trace or this page with it.",
            *quantiles("jobworker_job_queue_wait_seconds", shares=[0.5, 0.99]),
            unit="s", width=12,
        ),
    ]  # fmt: skip


def _shape(name: str, replacement: str) -> dashboard.QueryVariable:
    """A hidden variable: the CorrelationID put together in another way; "none" while there is none."""
    typed = 'label_replace(vector(1), "typed", "$correlation_id", "", "")'
    default = f'label_replace({typed}, "{name}", "none", "", "")'
    # Grafana leaves `$1` alone: no variable has that name.
    return (
        dashboard.QueryVariable(name)
        .datasource(PROMETHEUS)
        .hide(models.VariableHide.HIDE_VARIABLE)
        .query(f'query_result(label_replace({default}, "{name}", "{replacement}", "typed", "{_PARTS}"))')
        .regex(f'/{name}="([^"]+)"/')
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
    )
