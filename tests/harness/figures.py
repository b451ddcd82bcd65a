"""What a service says of itself at /metrics, parsed by prometheus-client, and the probes beside it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from prometheus_client import parser
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.samples import Sample

from tests.harness.service import CALL_SECONDS, Service
from tests.harness.wait import until

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5"


def get(port: int, path: str, *, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (names in lower case) and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CALL_SECONDS)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def ready(port: int) -> tuple[int, Any]:
    """What /readyz answers."""
    status, _, body = get(port, "/readyz")
    return status, json.loads(body)


@dataclass(frozen=True)
class Figures:
    """One scrape."""

    metrics: list[Metric]

    @property
    def samples(self) -> Iterable[Sample]:
        """All."""
        return (sample for metric in self.metrics for sample in metric.samples)

    def of(self, name: str, **labels: str) -> list[Sample]:
        """Those of a name, with these labels among theirs."""
        return [s for s in self.samples if s.name == name and labels.items() <= s.labels.items()]

    def sum(self, name: str, **labels: str) -> float:
        """Their sum."""
        return sum(sample.value for sample in self.of(name, **labels))

    def value(self, name: str, **labels: str) -> float:
        """Of the only one."""
        (sample,) = self.of(name, **labels)
        return sample.value

    def trace_ids(self, name: str) -> set[str]:
        """Those of a histogram's exemplars."""
        return {s.exemplar.labels["trace_id"] for s in self.of(f"{name}_bucket") if s.exemplar}


def text(port: int, accept: str = "") -> str:
    """As it is sent."""
    status, headers, body = get(port, "/metrics", **({"Accept": accept} if accept else {}))
    assert status == 200, body
    kind = "application/openmetrics-text" if "openmetrics" in accept else "text/plain"
    assert headers["content-type"].startswith(kind)
    return body.decode()


def scrape(port: int) -> Figures:
    """In the form that has exemplars."""
    return Figures(list(openmetrics.text_string_to_metric_families(text(port, OPENMETRICS))))


def scrape_plain(port: int) -> Figures:
    """In the older form."""
    return Figures(list(parser.text_string_to_metric_families(text(port))))


def until_value(service: Service, name: str, value: float, **labels: str) -> Figures:
    """Waits until the sum of some samples has a value; the scrape that had it."""
    seen: list[float] = []

    def has() -> Figures | None:
        figures = scrape(service.metrics_port)
        seen.append(figures.sum(name, **labels))
        return figures if seen[-1] == value else None

    try:
        return until(has, f"{name} {labels} is {value}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it was {seen[-1]}") from None
