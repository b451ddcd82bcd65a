"""Every metric of the server: its name, type, unit, labels and meaning, in one place. docs/metrics.md is made from it.

Label values are few and of the service's own making: never a CorrelationID, a user, or text that a client chose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Spec:
    """A metric. `labels` with the values that each may have, in words; `buckets` of a histogram, +Inf left out."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[tuple[str, str], ...] = ()
    buckets: tuple[float, ...] = ()
    exemplars: bool = False

    @property
    def label_names(self) -> tuple[str, ...]:
        """Without their values."""
        return tuple(name for name, _ in self.labels)


def _counter(name: str, unit: str, help_: str, *labels: tuple[str, str]) -> Spec:
    return Spec(name, "counter", unit, help_, labels)


def _gauge(name: str, unit: str, help_: str, *labels: tuple[str, str]) -> Spec:
    return Spec(name, "gauge", unit, help_, labels)


_METHOD = (
    ("grpc_type", "unary, client_stream, server_stream, bidi_stream"),
    ("grpc_service", "jobworker.v1.JobQueryService and the others that are served"),
    ("grpc_method", "StreamLogs and the others"),
)
_VOLUME = ("volume", "data, logs")
_LISTENER = ("listener", "grpc, rest")
_REASON = ("reason", "age; user, whose batches took too much; total, when all did")

# -- calls. Names and labels are those of go-grpc-middleware, which dashboards and rules of others are written for.
RPC_STARTED = _counter("grpc_server_started_total", "calls", "Calls begun, over gRPC and over REST.", *_METHOD)
RPC_HANDLED = _counter(
    "grpc_server_handled_total",
    "calls",
    "Calls ended, whether well or not.",
    *_METHOD,
    ("grpc_code", "OK, NotFound and the others, as Go spells them"),
)
RPC_SECONDS = Spec(
    "grpc_server_handling_seconds",
    "histogram",
    "seconds",
    "How long calls took until their end; a call that follows a log lasts as long as its client likes.",
    _METHOD,
    # A call from memory takes about 1 ms, one that syncs to disk about 10. Beyond 10 s are followers alone.
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600),
    exemplars=True,
)
CALLS_UNDER_WAY = _gauge("jobworker_calls_under_way", "calls", "Calls that are being answered now.")
FOLLOWERS = _gauge("jobworker_followers", "calls", "Calls that follow a log, or wait for a batch, now.")

# -- the service
BUILD_INFO = _gauge(
    "jobworker_build_info",
    "",
    "Always 1; the labels say which version runs.",
    ("version", "of jobworker"),
    ("python", "its version"),
)
SERVICE_STATE = _gauge(
    "jobworker_service_state",
    "",
    "1 for the state that the service is in, 0 for the others.",
    ("state", "serving, draining, stopped"),
)
EVENT_LOOP_LAG = Spec(
    "jobworker_event_loop_lag_seconds",
    "histogram",
    "seconds",
    "How much later than wanted a timer ran, four times a second: what every call waits at the least.",
    # Timers are exact to 1 ms. 10 ms are felt by callers, a second means that something blocks.
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)

# -- batches and jobs
BATCHES_ACCEPTED = _counter("jobworker_batches_accepted_total", "batches", "Batches that are on disk and acknowledged.")
BATCHES_FINISHED = _counter(
    "jobworker_batches_finished_total",
    "batches",
    "Batches whose jobs are all final.",
    ("state", "succeeded, failed, cancelled"),
)
BATCHES_UNFINISHED = _gauge("jobworker_batches_unfinished", "batches", "Batches with a job that is not final.")
JOBS_SUBMITTED = _counter("jobworker_jobs_submitted_total", "jobs", "Jobs of accepted batches.")
JOBS_STARTED = _counter("jobworker_jobs_started_total", "jobs", "Jobs that the executor started.")
JOBS_FINISHED = _counter(
    "jobworker_jobs_finished_total",
    "jobs",
    "Jobs that are final and durable, skipped and lost ones included.",
    ("state", "succeeded, failed, cancelled, timed_out, lost, skipped"),
    ("reason", "exited, signalled and the others of EndReason"),
)
JOBS_RUNNING = _gauge("jobworker_jobs_running", "jobs", "Jobs that were given to the executor and have not ended.")
JOBS_QUEUED = _gauge(
    "jobworker_jobs_queued",
    "jobs",
    "Jobs that wait to be started, by the role that their user has now.",
    ("role", "viewer, operator, admin, custom (a role of auth.roles), unknown (a user who was removed)"),
)
JOBS_OLDEST_QUEUED = _gauge(
    "jobworker_jobs_oldest_queued_seconds",
    "seconds",
    "Age of the oldest batch that has a queued job; 0 when there is none.",
)
# Waits and runs are anything between a millisecond and days: the bounds people think in, two or three a decade.
_LONG = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)
JOB_QUEUE_WAIT = Spec(
    "jobworker_job_queue_wait_seconds",
    "histogram",
    "seconds",
    "From the first message of a batch until each job was given to the executor.",
    buckets=_LONG,
    exemplars=True,
)
JOB_RUN = Spec(
    "jobworker_job_run_seconds",
    "histogram",
    "seconds",
    "From a job's start until nothing of it runs; told at its end. Lost ones, whose end nobody saw, are left out.",
    buckets=_LONG,
    exemplars=True,
)
JOB_SPAWN = Spec(
    "jobworker_job_spawn_seconds",
    "histogram",
    "seconds",
    "What starting a job's first process took the executor; told at the job's end.",
    # A vfork and exec of a small program take some 300 us; 10 ms and more say that the machine is out of something.
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1),
    exemplars=True,
)

# -- logs and disk
LOG_WRITTEN = _counter("jobworker_log_written_bytes_total", "bytes", "Bytes in the logs of jobs that ended.")
LOG_STREAMED = _counter("jobworker_log_streamed_bytes_total", "bytes", "Bytes of logs read for followers.")
LOG_DROPPED = _counter(
    "jobworker_log_dropped_bytes_total",
    "bytes",
    "Bytes that jobs printed and that are in no log; told at their end.",
    ("reason", "log_limit, disk_full"),
)
LOG_FILES_OPEN = _gauge("jobworker_log_files_open", "files", "Logs that are open for followers now.")
STORE_BYTES = _gauge(
    "jobworker_store_bytes",
    "bytes",
    "Lengths of all files of batches, finished or not; absent until they were counted, which is done once.",
)
STORE_FILES = _gauge(
    "jobworker_store_files",
    "files",
    "Files and folders of batches, and a log for each job that is not final; absent until they were counted.",
)
STORE_BATCHES = _gauge(
    "jobworker_store_batches", "batches", "Batches, finished or not; absent until they were counted."
)
STORE_LIMIT_BYTES = _gauge(
    "jobworker_store_limit_bytes", "bytes", "limits.stored_bytes: no batch is taken above it; absent without one."
)
STORE_LIMIT_FILES = _gauge(
    "jobworker_store_limit_files", "files", "limits.stored_files: no batch is taken above it; absent without one."
)
RETENTION_BATCHES = _counter(
    "jobworker_retention_removed_batches_total", "batches", "Finished batches that were removed.", _REASON
)
RETENTION_BYTES = _counter("jobworker_retention_removed_bytes_total", "bytes", "What these took.", _REASON)
DISK_FREE = _gauge("jobworker_disk_free_bytes", "bytes", "Free for the service on the volume's file system.", _VOLUME)
DISK_SIZE = _gauge("jobworker_disk_size_bytes", "bytes", "Size of the volume's file system.", _VOLUME)
DISK_INODES = _gauge(
    "jobworker_disk_free_inodes",
    "files",
    "Files that the volume's file system can still take; +Inf where it sets no such limit.",
    _VOLUME,
)
FSYNC_SECONDS = Spec(
    "jobworker_fsync_seconds",
    "histogram",
    "seconds",
    "What a sync of a batch's files to disk took, failed ones included.",
    # An SSD takes 0.1 to 5 ms, a disk 10 to 50; from 100 ms on acknowledgements are late.
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
)
FSYNC_FAILED = _counter("jobworker_fsync_failed_total", "syncs", "Syncs of a batch's files to disk that failed.")

# -- the executor
EXECUTOR_UP = _gauge("jobworker_executor_up", "", "1 when an executor is attached and takes orders.")
EXECUTOR_STARTS = _counter(
    "jobworker_executor_starts_total", "executors", "Executors that attached, one after another: above 1, it restarted."
)
EXECUTOR_START_TIME = _gauge(
    "jobworker_executor_start_time_seconds", "seconds", "When the last executor started, Unix time; absent if unknown."
)
EXECUTOR_ISOLATED = _gauge(
    "jobworker_executor_isolated", "", "1 when jobs run in namespaces of their own, 0 when they could reach more."
)

# -- configuration and certificates
CERTIFICATE_NOT_AFTER = _gauge(
    "jobworker_certificate_not_after_timestamp_seconds",
    "seconds",
    "When a certificate in use expires, Unix time.",
    ("certificate", "ca, server"),
)
PKI_SUCCESSFUL = _gauge(
    "jobworker_pki_last_reload_successful",
    "",
    "1 when the newest content of a file of the PKI is in force, 0 when it was refused and the one before it stayed.",
    (
        "file",
        "server_certificate (with its key and authorities), users, token_keys, revocations, revoked_tokens, logged_out",
    ),
)
CONFIG_GENERATION = _gauge("jobworker_config_generation", "", "Counts the configurations that were in force.")
CONFIG_SUCCESSFUL = _gauge(
    "jobworker_config_last_reload_successful", "", "1 when the newest configuration is in force, 0 when it was refused."
)
CONFIG_TIMESTAMP = _gauge(
    "jobworker_config_last_reload_timestamp_seconds",
    "seconds",
    "When the configuration in force was taken over, Unix time.",
)

# -- who is let in
LOGINS = _counter(
    "jobworker_logins_total",
    "logins",
    "Logins by outcome.",
    (
        "outcome",
        "accepted; login_failed and the others of AuthReason; throttled (too many at a time, or too many failed)",
    ),
)
PASSWORDS_WAITING = _gauge(
    "jobworker_password_checks_waiting",
    "logins",
    "Logins whose password waits to be checked, each certificate in turn.",
)
PASSWORDS_OVERDUE = _gauge(
    "jobworker_password_checks_overdue",
    "logins",
    "Passwords that are being checked for more than 10 s: above 0, the service is not ready.",
)
DENIED = _counter(
    "jobworker_denied_total",
    "calls",
    "Calls other than logins that were not let in.",
    ("reason", "token_missing, role_insufficient and the others of AuthReason"),
)
AUDIT_LOST = _counter(
    "jobworker_audit_lost_total",
    "lines",
    "Lines of the audit log that could not be written; it says so itself as well.",
)
TLS_CONNECTIONS = _counter(
    "jobworker_tls_connections_total",
    "connections",
    "Connections that made the handshake; over gRPC, those that also made a call.",
    _LISTENER,
)
TLS_FAILURES = _counter(
    "jobworker_tls_handshake_failures_total",
    "connections",
    "Handshakes that failed; gRPC does not tell of its own.",
    ("listener", "rest"),
)
WITHOUT_CALL = _counter(
    "jobworker_grpc_connections_without_call_total",
    "connections",
    "Connections to the gRPC port that ended without a call, though their clients had said something: failed "
    "handshakes, and whoever made one and left.",
)

# -- telemetry itself
SPANS_EXPORTED = _counter(
    "jobworker_spans_exported_total", "spans", "Spans by what became of them.", ("outcome", "exported, failed, dropped")
)

ALL: tuple[Spec, ...] = tuple(value for value in globals().values() if isinstance(value, Spec))
