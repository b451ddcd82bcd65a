"""OTLP, by gRPC or HTTP, as the OpenTelemetry SDK speaks it and as its OTEL_* variables say."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote

from jobworker.server.telemetry.pipeline import QueueLimits

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

# https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/, but for the delay: 5 s there.
_QUEUE_SPANS = 2048
_SPANS_AT_ONCE = 512
_DELAY_MS = 1000.0
_LOGGERS = ("opentelemetry", "urllib3")
_HEADERS = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
_SECRET_CHARACTERS = 4  # fewer are none, and would be found in any text
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def wanted(choice: Literal["auto", "otlp", "none"], environment: Mapping[str, str]) -> bool:
    """Whether spans are to be exported at all."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if choice != "auto":
        return choice == "otlp"
    exporters = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporters:
        return "otlp" in exporters.split(",")
    return any(environment.get(name, "").strip() for name in _ENDPOINTS)


def queue_limits(environment: Mapping[str, str]) -> QueueLimits:
    """What the OTEL_BSP_* variables say; what is not a number is passed over."""
    spans = max(1, int(_number(environment, "OTEL_BSP_MAX_QUEUE_SIZE", _QUEUE_SPANS)))
    at_once = max(1, int(_number(environment, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", _SPANS_AT_ONCE)))
    delay = _number(environment, "OTEL_BSP_SCHEDULE_DELAY", _DELAY_MS) / 1000
    return QueueLimits(spans=spans, spans_at_once=min(at_once, spans), delay_seconds=delay)


def resource(environment: Mapping[str, str], version: str) -> Resource:
    """Who we are: `jobworker`, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say otherwise."""
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - a quarter of a second, when it is wanted

    said = environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    given = {part.partition("=")[0].strip() for part in said.split(",")}
    own = {"service.version": version}
    if not environment.get("OTEL_SERVICE_NAME"):
        own["service.name"] = "jobworker"
    # The SDK reads the environment itself, and lets what it is given win.
    return Resource.create({key: value for key, value in own.items() if key not in given})


class ProtocolError(ValueError):
    """It is spoken over gRPC and HTTP alone."""


class Otlp:
    """An Exporter. What the SDK would log is what it says of a failure."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Raises ProtocolError: the environment's protocol is neither."""
        self._words = _Words()
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            logger.handlers[:] = [self._words]
            logger.propagate = False
        protocol = (
            environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
            or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
            or "grpc"
        ).strip()
        default = "http://localhost:4317" if protocol == "grpc" else "http://localhost:4318"
        self._secrets = _secrets(environment)
        self.endpoint = self._without_secrets(
            next((environment[name] for name in _ENDPOINTS if environment.get(name)), default)
        )
        self._exporter = _exporter(protocol)

    def export(self, spans: list[ReadableSpan]) -> str:
        """Sends them, trying for as long as OTEL_EXPORTER_OTLP_TIMEOUT says; blocks."""
        from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415

        self._words.last = ""
        if self._exporter.export(spans) is SpanExportResult.SUCCESS:
            return ""
        return self._without_secrets(self._words.last) or "the receiver did not take them"

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def shutdown(self) -> None:
        """Ends an attempt that waits."""
        self._exporter.shutdown()


def _exporter(protocol: str) -> SpanExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

        return OTLPSpanExporter()
    if protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter as HttpSpanExporter,
        )

        return HttpSpanExporter()
    raise ProtocolError(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}, and should be grpc or http/protobuf")


def _secrets(environment: Mapping[str, str]) -> list[str]:
    """What the receiver is told to let us in, as an error may say it: values of headers, and user and password of an
    address; the longest first."""
    found: set[str] = set()
    for name in _HEADERS:
        for pair in environment.get(name, "").split(","):
            value = pair.partition("=")[2].strip()
            for form in (value, unquote(value)):  # W3C Baggage: percent-encoded
                # Also the parts, as of "Bearer abc": an error may name one of them.
                found.update((form, *form.split()))
    for name in _ENDPOINTS:
        before, at, _ = environment.get(name, "").partition("://")[2].partition("/")[0].rpartition("@")
        found.add(before if at else "")
    return sorted((secret for secret in found if len(secret) >= _SECRET_CHARACTERS), key=len, reverse=True)


class _Words(logging.Handler):
    """Keeps the last message."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.last = " ".join(record.getMessage().split())


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    try:
        return max(0.0, float(environment.get(name, "") or default))
    except ValueError:
        return default
