"""A service under load, and what watches it, with the repository's own configurations."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.harness import otlp
from tests.harness.http import program
from tests.harness.prometheus import prometheus_programs
from tests.harness.service import Service, free_port, running
from tests.observability import load
from tests.observability.repo import DOCKER, RULES


class Watched(NamedTuple):
    """A service under load, the address of Prometheus, and the one at which it looks for an Alertmanager."""

    service: Service
    load: load.Load
    prometheus: str
    alertmanager: str


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Prometheus scrapes each second; its rules, and the way to Alertmanager, are the repository's."""
    folder = tmp_path_factory.mktemp("watched")
    programs = prometheus_programs()
    node, alerts, own = (f"127.0.0.1:{free_port()}" for _ in range(3))
    with (
        otlp.receiver() as receiver,
        running(folder / "service", receiver.environment, **load.SETTINGS) as service,
        program(
            [programs / "node_exporter", f"--web.listen-address={node}"],
            ready=f"http://{node}/",
            folder=folder / "node",
        ),
    ):
        targets = {
            "jobworker": f"127.0.0.1:{service.metrics_port}",
            "node": node,
            "alertmanager": alerts,
            "prometheus": own,
            "otel-collector": own,  # it has tests of its own
        }
        config = _config(folder / "config", targets)
        with (
            program(
                [
                    programs / "prometheus",
                    f"--config.file={config}",
                    "--storage.tsdb.path=data",
                    "--enable-feature=exemplar-storage",
                    "--rules.alert.resend-delay=1s",
                    f"--web.listen-address={own}",
                ],
                ready=f"http://{own}/-/ready",
                folder=folder / "prometheus",
            ),
            load.running(service) as working,
        ):
            yield Watched(service, working, f"http://{own}", alerts)


def _config(folder: Path, targets: dict[str, str]) -> Path:
    """The repository's own, with these targets and a short interval for the compose network's names and 15 s."""
    config: dict[str, Any] = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    config["alerting"]["alertmanagers"][0]["static_configs"] = [{"targets": [targets["alertmanager"]]}]
    shutil.copytree(RULES, folder / "rules")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    return folder / "prometheus.yml"


@pytest.fixture
def alertmanager(watched: Watched, tmp_path: Path) -> Iterator[str]:
    """Its address. It finds its templates where the package would have put them, in a mount namespace of its own."""
    programs = prometheus_programs()
    place = "/usr/share"
    script = (
        f"mount -t tmpfs tmpfs {place} && mkdir {place}/prometheus &&"
        f' cp -r "$1/templates" {place}/prometheus/alertmanager && shift && exec "$@"'
    )
    command = [
        *("unshare", "--mount", "sh", "-ec", script, "sh", programs, programs / "alertmanager"),
        f"--config.file={DOCKER / 'alertmanager' / 'alertmanager.yml'}",
        *("--storage.path=.", "--cluster.listen-address=", f"--web.listen-address={watched.alertmanager}"),
    ]
    address = f"http://{watched.alertmanager}"
    with program(command, ready=f"{address}/-/ready", folder=tmp_path / "alertmanager"):
        yield address
