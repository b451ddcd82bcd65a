"""What every dashboard is made of: data sources, variables, links, queries and panels in one look.

It knows nothing of what is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, dashboard, logs, prometheus, stat, text, timeseries
from grafana_foundation_sdk.builders import loki as loki_builder
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.text import TextMode

PROMETHEUS = kinds.DataSourceRef("prometheus", "${prometheus}")
LOKI = kinds.DataSourceRef("loki", "${loki}")
JAEGER = kinds.DataSourceRef("jaeger", "${jaeger}")

SERVICE = 'job="jobworker", instance=~"$instance"'
"""The service's own series, of the instances chosen above."""
STREAM = '{service_name="jobworker"}'
"""Its log lines, as the collector sends them."""
TAG = "jobworker"
GREEN, ORANGE, RED, BLUE = "green", "orange", "red", "blue"

Steps = Sequence[tuple[float | None, str]]
"""Where a colour begins; the first begins nowhere (None)."""


@dataclass(frozen=True)
class Query:
    """PromQL and the name of its lines; with exemplars, dots that open a trace."""

    expr: str
    legend: str = ""
    exemplars: bool = False


def board(title: str, uid: str, description: str) -> dashboard.Dashboard:
    """An empty dashboard with the variables and links that all of them have."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Dashboards of the service")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(True)
            .keep_time(True)
            .icon("external link")
        )
    )
    for name, label in (("prometheus", "Metrics"), ("loki", "Logs"), ("jaeger", "Traces")):
        default = models.VariableOption(selected=True, text=label, value=name)
        made = made.with_variable(dashboard.DatasourceVariable(name).label(label).type(name).current(default))
    everything = models.VariableOption(selected=True, text="All", value="$__all")
    return made.with_variable(
        dashboard.QueryVariable("instance")
        .label("Instance")
        .description("Which servers; job is always jobworker.")
        .datasource(PROMETHEUS)
        .query('label_values(jobworker_build_info{job="jobworker"}, instance)')
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .include_all(True)
        .all_value(".+")
        .multi(True)
        .current(everything)
    )


def graph(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    width: int = 8,
    height: int = 8,
    steps: Steps | None = None,
    stacked: bool = False,
    most: float | None = None,
) -> timeseries.Panel:
    """Lines over time, from zero; `steps` draws limits into it."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .unit(unit)
        .span(width)
        .height(height)
        .min(0)
        .line_width(1)
        .fill_opacity(40 if stacked else 10)
        .show_points(kinds.VisibilityMode.AUTO)
        .tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING))
        .legend(
            common.VizLegendOptions()
            .display_mode(kinds.LegendDisplayMode.TABLE)
            .placement(kinds.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["mean", "max", "lastNotNull"])
        )
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL))
    if most is not None:
        panel = panel.max(most)
    if steps is not None:
        panel = panel.thresholds(_thresholds(steps)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED)
        )
    for letter, query in zip("ABCDEFGH", queries, strict=False):
        panel = panel.with_target(_range(query).ref_id(letter))
    return panel


def figure(
    title: str,
    description: str,
    query: Query,
    *,
    unit: str,
    steps: Steps,
    words: dict[str, tuple[str, str]] | None = None,
    names: bool = False,
    decimals: int | None = None,
    width: int = 4,
) -> stat.Panel:
    """The newest value, large; `words` says values in words and colour, `names` shows the series' name instead."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .unit(unit)
        .span(width)
        .height(4)
        .thresholds(_thresholds(steps))
        .color_mode(kinds.BigValueColorMode.NONE if names else kinds.BigValueColorMode.VALUE)
        .graph_mode(kinds.BigValueGraphMode.NONE)
        .text_mode(kinds.BigValueTextMode.NAME if names else kinds.BigValueTextMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
        .with_target(
            prometheus.Dataquery()
            .ref_id("A")
            .datasource(PROMETHEUS)
            .expr(query.expr)
            .legend_format(query.legend or "__auto")
            .format(PromQueryFormat.TIME_SERIES)
            .instant()
        )
    )
    if decimals is not None:
        panel = panel.decimals(decimals)
    if words is not None:
        results = {k: models.ValueMappingResult(text=t, color=c) for k, (t, c) in words.items()}
        panel = panel.mappings([models.ValueMap(options=results)])
    return panel


def lines(title: str, description: str, query: str, *, height: int = 12, width: int = 24) -> logs.Panel:
    """Log lines, newest first, each opening into its fields."""
    return (
        logs.Panel()
        .title(title)
        .description(description)
        .datasource(LOKI)
        .span(width)
        .height(height)
        .show_time(True)
        .wrap_log_message(True)
        .enable_log_details(True)
        .sort_order(kinds.LogsSortOrder.DESCENDING)
        .dedup_strategy(kinds.LogsDedupStrategy.NONE)
        .with_target(
            loki_builder.Dataquery().ref_id("A").datasource(LOKI).expr(query).query_type("range").max_lines(1000)
        )
    )


def log_bars(
    title: str, description: str, query: str, *, legend: str, width: int = 24, height: int = 6
) -> timeseries.Panel:
    """How many log lines there were, as bars over time."""
    return (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(LOKI)
        .unit("short")
        .span(width)
        .height(height)
        .min(0)
        .draw_style(kinds.GraphDrawStyle.BARS)
        .fill_opacity(80)
        .stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL))
        .tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING))
        .legend(
            common.VizLegendOptions()
            .display_mode(kinds.LegendDisplayMode.TABLE)
            .placement(kinds.LegendPlacement.RIGHT)
            .show_legend(True)
            .calcs(["sum"])
        )
        .with_target(
            loki_builder.Dataquery().ref_id("A").datasource(LOKI).expr(query).query_type("range").legend_format(legend)
        )
    )


def prose(title: str, description: str, markdown: str, *, height: int = 4, width: int = 24) -> text.Panel:
    """A text."""
    panel = text.Panel().title(title).description(description).span(width).height(height)
    return panel.mode(TextMode.MARKDOWN).content(markdown)


def quantiles(
    metric: str,
    *,
    by: str = "",
    selector: str = SERVICE,
    shares: Sequence[float] = (0.5, 0.95, 0.99),
    exemplars: bool = True,
) -> list[Query]:
    """Of a histogram, the times that so many of a hundred stay below; with its exemplars, if it has any."""
    labels = f"{by}, le" if by else "le"
    return [
        Query(
            f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{{{selector}}}[$__rate_interval])))",
            f"p{share * 100:g}" + (f" {{{{{by}}}}}" if by else ""),
            exemplars=exemplars and share == max(shares),
        )
        for share in shares
    ]


def rate(metric: str, *, by: str = "", selector: str = SERVICE) -> str:
    """Of a counter, a second, summed up."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{selector}}}[$__rate_interval]))"


def row(made: dashboard.Dashboard, title: str, panels: Sequence[Builder[models.Panel]]) -> dashboard.Dashboard:
    """A heading, and the panels under it from left to right."""
    made = made.with_row(dashboard.Row(title))
    for panel in panels:
        made = made.with_panel(panel)
    return made


def _range(query: Query) -> prometheus.Dataquery:
    made = prometheus.Dataquery().datasource(PROMETHEUS).expr(query.expr).range()
    return made.legend_format(query.legend or "__auto").exemplar(query.exemplars)


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    made = dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE)
    return made.steps([models.Threshold(value=value, color=color) for value, color in steps])
