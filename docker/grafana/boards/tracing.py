"""What the foundation SDK has no builder for: queries to Jaeger, and the panel that draws a trace.

The shapes are those of Grafana's Jaeger data source: a query without a type asks for one trace by its id, a search asks
for the newest traces.
"""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import dashboard, table
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery

from boards.parts import JAEGER


class _JaegerQuery(Dataquery):
    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = {"refId": "A", "datasource": JAEGER.to_json(), **fields}

    def to_json(self) -> dict[str, Any]:
        """As Grafana keeps it."""
        return self._fields


class _Query(Builder[Dataquery]):
    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def build(self) -> Dataquery:
        """The query."""
        return _JaegerQuery(self._fields)


def trace(title: str, description: str, trace_id: str, *, height: int = 14, width: int = 24) -> dashboard.Panel:
    """The spans of one trace."""
    panel = dashboard.Panel().type("traces").title(title).description(description).datasource(JAEGER)
    return panel.span(width).height(height).with_target(_Query(query=trace_id))


def newest(title: str, description: str, *, height: int = 8, width: int = 24) -> table.Panel:
    """The newest traces of the service, each of which opens."""
    panel = table.Panel().title(title).description(description).datasource(JAEGER).span(width).height(height)
    return panel.filterable(True).with_target(_Query(queryType="search", service="jobworker", limit=50))
