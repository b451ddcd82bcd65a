"""A job in the executor's hands: what is known of it, and no deeds."""

from enum import Enum
from typing import List, Optional, Set, Tuple

from .protocol import End, EndUsage, Order, Started
from .pump import Log
from .timers import Timer


class Stage(Enum):
    """How far the end of a job has come. A stage only moves on, never back."""

    RUNNING = 0
    LINGERING = 1  # the first process ended; its output is still open, and may stay so for a while
    TERMINATING = 2  # SIGTERM was sent to all of it
    KILLING = 3  # SIGKILL is sent, again and again
    DRAINING = 4  # nothing of it runs; the pump takes what is left in the pipes


class Job:
    """From its start to its end."""

    __slots__ = (
        "deadline",
        "detail",
        "exited",
        "grace_seconds",
        "id",
        "killed",
        "linger_seconds",
        "logs",
        "open_logs",
        "peak_kib",
        "pid",
        "pidfd",
        "reason",
        "signalled",
        "spawn_us",
        "stage",
        "started_at",
        "started_ns",
        "timer",
    )

    def __init__(self, order: Order) -> None:
        self.id: str = order["id"]
        self.grace_seconds: float = order["grace"]
        self.linger_seconds: float = order["linger"]
        self.logs: List[Log] = []
        self.open_logs = 0
        self.pid = -1
        self.pidfd = -1
        self.started_ns = 0
        self.started_at = 0.0  # the same moment, by the clock that never jumps
        self.spawn_us = 0
        self.peak_kib = 0  # the executor's own at the spawn
        self.stage = Stage.RUNNING
        self.exited = False  # its first process is a zombie: not reaped, so that its pid and session stay its own
        self.reason = ""  # why it was ended, when it did not end by itself
        self.detail = ""
        self.killed = False
        self.signalled: Set[Tuple[int, int]] = set()  # (pid, start) of those that had their SIGTERM
        self.deadline: Optional[Timer] = None  # of its timeout
        self.timer: Optional[Timer] = None  # of its stage

    def started(self) -> Started:
        """For the server."""
        return {"id": self.id, "pid": self.pid, "started": self.started_ns}

    def end(self, *, reason: str, code: Optional[int], signal: Optional[int], ended_ns: int, usage: EndUsage) -> End:
        """For the server."""
        end: End = {
            "id": self.id,
            "reason": reason,
            "detail": self.detail,
            "code": code,
            "signal": signal,
            "started": self.started_ns,
            "ended": ended_ns,
            "usage": usage,
            "logs": [log.written for log in self.logs],
            "lost": sum([log.lost for log in self.logs]),
            "over": sum([log.over for log in self.logs]),
            "spawn_us": self.spawn_us,
        }
        if end["over"]:
            end["dropped_tail"] = [log.over for log in self.logs]
        punched = [log.punched for log in self.logs]
        if any(punched):
            end["dropped_head"] = punched
        problems = [log.problem for log in self.logs if log.problem]
        if problems:
            end["detail"] = "; ".join([self.detail, problems[0]] if self.detail else problems[:1])
        return end


def unstarted(order_id: str, *, reason: str, detail: str, logs: int, ended_ns: int) -> End:
    """The end of a job that never ran."""
    return {
        "id": order_id,
        "reason": reason,
        "detail": detail,
        "code": None,
        "signal": None,
        "started": None,
        "ended": ended_ns,
        "usage": None,
        "logs": [0] * logs,
        "lost": 0,
    }
