"""What the server writes about itself: its log, and its audit log. Opened as the configuration says."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path

from jobworker.server.audit.calls import CallAudit
from jobworker.server.audit.log import AuditLog
from jobworker.server.config.live import LiveConfig
from jobworker.server.config.model import Settings
from jobworker.server.folders import Folders
from jobworker.server.identity.gate import Identity
from jobworker.server.reach import StartError
from jobworker.server.rpc.call import log_fields
from jobworker.server.store.disk import Disk
from jobworker.server.telemetry.log import Log
from jobworker.server.telemetry.logging import Level, ServiceLog
from jobworker.server.telemetry.logging import open_log as open_service_log
from jobworker.server.telemetry.metrics import Metrics


def open_log(settings: Settings, folders: Folders, level: Level) -> ServiceLog:
    """The service's log.

    Raises:
        StartError: it cannot be opened.
    """
    logs = settings.logs
    try:
        bounds = {"max_bytes": logs.max_bytes, "files": logs.files}
        return open_service_log(folders.path("logs"), level=level, fields=log_fields, shown=folders.shown, **bounds)
    except OSError as e:
        raise StartError(f"{e.filename}: the service's log cannot be opened: {e.strerror}") from e


def begin_audit(
    folder: Path, *, config: LiveConfig, identity: Identity, metrics: Metrics, log: Log, parts: AsyncExitStack
) -> CallAudit:
    """The audit log. It begins with a line that the server started, and ends, with `parts`, with one that it stopped.

    Raises:
        StartError: it cannot be opened.
    """
    settings = config.settings.audit
    try:
        lines = AuditLog(
            str(folder),
            storage=Disk(),
            max_bytes=settings.max_bytes,
            files=settings.files,
            log=log,
            lost=metrics.audit_lost,
            clock_ns=time.time_ns,
        )
    except OSError as e:
        raise StartError(f"{e.filename or folder}: the audit log cannot be opened: {e.strerror}") from e
    audit = CallAudit(lines, holder=identity.holder)
    parts.push_async_callback(audit.close, {"what": "server.stop"})

    def configure(settings: Settings) -> None:
        lines.configure(max_bytes=settings.audit.max_bytes, files=settings.audit.files)
        audit.syncs_each = settings.audit.sync == "call"

    config.tell(configure)
    config.record = audit.changed
    refused = {"config_refused": True} if config.last_error else {}
    lines.append({"what": "server.start", "version": version("jobworker"), "generation": config.generation, **refused})
    return audit
