"""The ports that the server listens on: gRPC, REST, metrics. Made from the settings, and started in this order: first
who tells how the service is, last who takes work."""

from __future__ import annotations

import resource
from importlib.metadata import version

from jobworker.server import limits
from jobworker.server.config.model import Settings
from jobworker.server.identity.roles import rights_for
from jobworker.server.identity.tls import TlsMaterial
from jobworker.server.reach import StartError
from jobworker.server.rest.server import RestServer
from jobworker.server.rpc import server as rpc
from jobworker.server.telemetry.endpoint import Endpoint
from jobworker.server.telemetry.log import Log
from jobworker.server.telemetry.metrics import Metrics
from jobworker.server.telemetry.probes import Probes


async def start(settings: Settings, server: rpc.RpcServer, rest_server: RestServer, probes: Endpoint, log: Log) -> None:
    """Starts all that are enabled.

    Raises:
        StartError: an address cannot be listened on.
    """
    with_rest, with_metrics = settings.rest.enabled, settings.metrics.enabled
    try:
        if with_metrics:
            await probes.start()
        if with_rest:
            await rest_server.start()
        await server.start()
    except OSError as e:
        raise StartError(e.strerror or str(e)) from e
    log.info(
        "listening",
        host=settings.grpc.host,
        port=server.port,
        rest_host=settings.rest.host if with_rest else None,
        rest_port=rest_server.port if with_rest else None,
        metrics_host=settings.metrics.host if with_metrics else None,
        metrics_port=probes.port if with_metrics else None,
    )


def endpoint(settings: Settings, metrics: Metrics, probes: Probes, log: Log, *, share_port: bool) -> Endpoint:
    """Metrics and probes. `share_port`: with who holds the port for us."""
    return Endpoint(
        host=settings.metrics.host,
        port=settings.metrics.port,
        metrics=metrics.text,
        ready=probes.ready,
        connections=limits.metrics_connections(descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        log=log,
        share_port=share_port,
    )


def rest(settings: Settings, server: rpc.RpcServer, tls: TlsMaterial, log: Log, *, share_port: bool) -> RestServer:
    """REST, in front of the gRPC server's methods. `share_port`: as above."""
    keys = settings.rest
    return RestServer(
        methods=server.methods,
        layers=server.layers,
        tls=tls,
        host=keys.host,
        port=keys.port,
        share_port=share_port,
        limits=limits.rest_limits(settings, descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        log=log,
        version=version("jobworker"),
        needs_token=lambda method: rights_for(method) is not None,
    )
