"""The executor's words for orders and ends, and the server's."""

from __future__ import annotations

from typing import Any

from jobworker.executor import protocol
from jobworker.server.model import EndReason, JobEnd, JobState, LogPolicy, Usage
from jobworker.server.scheduling.worker import Order

_ENDS: dict[str, tuple[JobState, EndReason]] = {
    protocol.EXITED: (JobState.FAILED, EndReason.EXITED),
    protocol.SIGNALLED: (JobState.FAILED, EndReason.SIGNALLED),
    protocol.SPAWN_FAILED: (JobState.FAILED, EndReason.SPAWN_FAILED),
    protocol.TIMEOUT: (JobState.TIMED_OUT, EndReason.TIMEOUT),
    protocol.CANCELLED: (JobState.CANCELLED, EndReason.CANCELLED),
    protocol.LOG_LIMIT: (JobState.FAILED, EndReason.LOG_LIMIT),
    protocol.MEMORY: (JobState.FAILED, EndReason.MEMORY),
    protocol.INTERRUPTED: (JobState.FAILED, EndReason.INTERRUPTED),
    protocol.DISK_FULL: (JobState.FAILED, EndReason.DISK_FULL),
    protocol.PROCESSES: (JobState.FAILED, EndReason.PROCESSES),
}
_UNKNOWN_END = (JobState.FAILED, EndReason.SIGNALLED)


def order(order: Order, flag: int | None) -> protocol.Order:
    """An order as the executor is told it. `flag`: which byte it is to set when it starts it."""
    spec = order.spec
    limits: protocol.OrderLimits = {}
    if (memory := spec.limits.memory_bytes) is not None:
        limits["memory_bytes"] = memory
    if (cpu := spec.limits.cpu_seconds) is not None:
        limits["cpu_seconds"] = cpu
    if (files := spec.limits.open_files) is not None:
        limits["open_files"] = files
    if (processes := spec.limits.processes) is not None:
        limits["processes"] = processes
    if (size := spec.limits.file_size_bytes) is not None:
        limits["file_size_bytes"] = size
    wire: protocol.Order = {
        "id": order.id,
        "slots": order.slots,
        "argv": list(spec.argv) or ["/bin/sh", "-c", spec.command],
        "env": order.env,
        "cwd": spec.cwd,
        "stdin": order.stdin is not None,
        "logs": len(order.logs),
        "timeout": order.timeout_seconds,
        "grace": order.grace_seconds,
        "linger": order.linger_seconds,
        "log_bytes": order.log_bytes,
        "limits": limits,
    }
    if flag is not None:
        wire["flag"] = flag
    if order.log_policy is not LogPolicy.END:
        wire["log_policy"] = order.log_policy.name.lower()
    if order.uid is not None:
        wire["uid"] = order.uid
    return wire


def end(end: dict[str, Any], *, knows_policies: bool = True) -> JobEnd:
    """An end as the executor tells it, which is of the release before if it does not know log policies."""
    state, reason = _ENDS.get(end["reason"], _UNKNOWN_END)
    if reason is EndReason.EXITED and end["code"] == 0:
        state = JobState.SUCCEEDED
    elif reason is EndReason.CANCELLED and end["started"] is None:
        state = JobState.SKIPPED
    u = end["usage"]
    detail = end["detail"]
    if end["lost"]:
        detail = f"{detail}; {end['lost']} bytes of output were lost".lstrip("; ")
    if reason is EndReason.LOG_LIMIT and not knows_policies:
        detail = f"{detail}; an executor of the release before knows no log policy but `end`"
    return JobEnd(
        state=state,
        reason=reason,
        detail=detail,
        exit_code=end["code"],
        signal=end["signal"],
        waited=end["code"] is not None or end["signal"] is not None,
        started_at=end["started"],
        ended_at=end["ended"],
        usage=u
        and Usage(
            user_us=u["user_us"],
            system_us=u["system_us"],
            peak_memory_bytes=u["peak_memory_bytes"],
            read_bytes=u["read_bytes"],
            written_bytes=u["written_bytes"],
            voluntary_switches=u["voluntary"],
            involuntary_switches=u["involuntary"],
        ),
        log_bytes=tuple(end["logs"]),
        dropped_head=(head := tuple(end.get("dropped_head", ()))),
        dropped_tail=tuple(end.get("dropped_tail", ())),
        spawn_us=end.get("spawn_us"),  # the executor of the release before says neither this nor `over`
        lost_bytes=end["lost"],
        over_bytes=end.get("over", 0) + sum(head),
    )
