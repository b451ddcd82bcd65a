"""Programs that the observability tests run beside the service, built from their published sources: the OpenTelemetry
collector, Jaeger and VictoriaLogs, which takes OTLP logs as Loki does.

Each is built by the first test that wants it, see gobuild.py.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.harness import gobuild
from tests.harness.toolcache import cached, scratch

BUILDER = Path(__file__).with_name("builder.yaml")
OCB = "go.opentelemetry.io/collector/cmd/builder@v0.155.0"
JAEGER = "github.com/jaegertracing/jaeger/cmd/jaeger@v1.76.0"  # the number under which v2.13's sources are served
VICTORIA_LOGS = "github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs@v1.52.1"


def collector() -> Path:
    """The OpenTelemetry collector, with the parts that builder.yaml names."""
    program = cached("otelcol", BUILDER.read_bytes(), OCB.encode())
    if not program.exists():
        with scratch() as folder:
            gobuild.run(["go", "install", OCB], GOBIN=str(folder))
            # Its last step, `go mod tidy`, may fail for want of what only the modules' tests need; ours does not.
            builder = [str(folder / "builder"), "--config", str(BUILDER), "--skip-compilation"]
            said = subprocess.run(builder, check=False, cwd=folder, capture_output=True, text=True).stderr
            assert (folder / "_build" / "go.mod").exists(), said
            gobuild.compiled(folder / "_build", program)
    return program


def jaeger() -> Path:
    """Jaeger v2."""
    return gobuild.tool("jaeger", JAEGER)


def victoria_logs() -> Path:
    """VictoriaLogs."""
    return gobuild.installed("victoria-logs", VICTORIA_LOGS)
