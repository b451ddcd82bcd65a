"""What the configuration says, in the words of the parts that it is for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobworker.server.model import LogPolicy
from jobworker.server.rest.server import RestLimits
from jobworker.server.rpc.connections import ConnectionLimits
from jobworker.server.rpc.server import StreamLimits
from jobworker.server.rpc.shares import UserLimits
from jobworker.server.scheduling.order import RunSettings
from jobworker.server.scheduling.quotas import AcceptLimits
from jobworker.server.store.plan import Keep, Room

if TYPE_CHECKING:
    from jobworker.server.config.model import Settings
    from jobworker.server.telemetry.traces import Traces

_GRPC_SHARE = 4  # a quarter of the descriptors
_GRPC_STRANGERS_SHARE = 4  # a quarter of the connections
_REST_SHARE = 8  # an eighth of the descriptors
_METRICS_SHARE = 32
_METRICS_CONNECTIONS = 128
_LEAST_CONNECTIONS = 16
_STRANGERS_SHARE = 2  # half as many as connections, beside these
_LEAST_STRANGERS = 64  # and of metrics' connections


def run_settings(settings: Settings, traces: Traces) -> RunSettings:
    """For the scheduler."""
    jobs = settings.jobs
    return RunSettings(
        running_jobs=jobs.running,
        timeout_seconds=jobs.timeout_seconds,
        grace_seconds=jobs.grace_seconds,
        linger_seconds=jobs.linger_seconds,
        log_bytes=jobs.log_bytes,
        log_policy=LogPolicy[jobs.log_policy.upper()],
        sampled=traces.tells_sampled,
    )


def stream_limits(settings: Settings) -> StreamLimits:
    """For the gRPC server."""
    limits = settings.limits
    return StreamLimits(
        stall_seconds=settings.grpc.stall_seconds,
        user=UserLimits(
            calls=limits.user_calls,
            streams=limits.user_streams,
            uploads=limits.user_uploads,
            idle_seconds=limits.upload_idle_seconds,
        ),
        held_bytes=limits.held_bytes,
    )


def connection_limits(settings: Settings, *, descriptors: int) -> ConnectionLimits:
    """For the gRPC server, of a process that may have so many `descriptors`: most are for the files of jobs, whoever
    connects."""
    total = max(_LEAST_CONNECTIONS, min(settings.grpc.connections, descriptors // _GRPC_SHARE))
    return ConnectionLimits(
        total=total,
        strangers=max(1, total // _GRPC_STRANGERS_SHARE),
        per_client=settings.grpc.connections_per_client,
        handshake_seconds=settings.grpc.handshake_seconds,
    )


def accept_limits(settings: Settings) -> AcceptLimits:
    """For the acceptor."""
    limits = settings.limits
    return AcceptLimits(
        batch_jobs=limits.batch_jobs,
        user_unfinished_jobs=limits.user_unfinished_jobs,
        user_unfinished_batches=limits.user_unfinished_batches,
        free_disk_bytes=limits.free_disk_bytes,
        default_parallelism=settings.jobs.parallelism,
        user_stored=Room(limits.user_stored_bytes, limits.user_stored_files),
        stored=Room(limits.stored_bytes, limits.stored_files),
    )


def keep(settings: Settings) -> Keep:
    """For retention."""
    retention = settings.retention
    return Keep(
        seconds=retention.finished_seconds,
        user=Room(retention.user_stored_bytes, retention.user_stored_files),
        total=Room(retention.stored_bytes, retention.stored_files),
    )


def rest_limits(settings: Settings, *, descriptors: int) -> RestLimits:
    """For the REST server, of a process that may have so many `descriptors`: most are for the files of jobs, and for
    gRPC."""
    rest = settings.rest
    connections = max(_LEAST_CONNECTIONS, min(rest.connections, descriptors // _REST_SHARE))
    return RestLimits(
        body_bytes=rest.max_body_bytes,
        body_seconds=rest.body_seconds,
        idle_seconds=rest.idle_seconds,
        connections=min(rest.connections, connections),
        connections_per_client=rest.connections_per_client,
        strangers=max(_LEAST_STRANGERS, connections // _STRANGERS_SHARE),
        handshake_seconds=rest.handshake_seconds,
    )


def metrics_connections(*, descriptors: int) -> int:
    """How many connections the metrics endpoint takes at a time."""
    return max(_LEAST_STRANGERS, min(_METRICS_CONNECTIONS, descriptors // _METRICS_SHARE))
