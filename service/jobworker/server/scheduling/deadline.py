"""A time at which something is due, which no change of the clock moves: kept by CLOCK_BOOTTIME, shown by the clock of
the day. Pure: whoever asks says what time it is.

On disk it holds both, with the boot that the first is of, and how much was left. In another boot the clock of the day
tells; it may be wrong there, or have been when it was written, so no more is left than was."""

from __future__ import annotations

from typing import Any

from jobworker.server.clocks import Now

# The clock of the day is brought in line by so little at a time (adjtime(3)): what is shown stays as it was told.
_SLEW_NS = 1_000_000_000


class Deadline:
    """`due_ns` is CLOCK_BOOTTIME's."""

    __slots__ = ("_wall_ns", "due_ns")

    def __init__(self, *, due_ns: int, wall_ns: int) -> None:
        self.due_ns = due_ns
        self._wall_ns = wall_ns

    @classmethod
    def after(cls, seconds: float, now: Now) -> Deadline:
        """One that is due so much later."""
        left_ns = round(seconds * 1e9)
        return cls(due_ns=now.boottime_ns + left_ns, wall_ns=now.wall_ns + left_ns)

    @classmethod
    def read(cls, record: dict[str, Any], now: Now) -> Deadline | None:
        """Out of what `record` has made; also of servers that kept the clock of the day alone, `deadline_ns`.

        Raises:
            ValueError: it is none.
        """
        wall_ns = _number(record, "deadline_ns")
        if wall_ns is None:
            return None
        due_ns, left_ns = _number(record, "deadline_boottime_ns"), _number(record, "left_ns")
        if due_ns is None or record.get("boot") != now.boot:
            left = wall_ns - now.wall_ns
            due_ns = now.boottime_ns + (left if left_ns is None else min(left, left_ns))
        return cls(due_ns=due_ns, wall_ns=wall_ns)

    def record(self, now: Now) -> dict[str, Any]:
        """For JSON."""
        return {
            "deadline_ns": self.wall_ns(now),
            "deadline_boottime_ns": self.due_ns,
            "boot": now.boot,
            "left_ns": self.left_ns(now),
        }

    def left_ns(self, now: Now) -> int:
        """How long it takes until then; negative: it has passed."""
        return self.due_ns - now.boottime_ns

    def wall_ns(self, now: Now) -> int:
        """What the clock of the day will say, as it goes now."""
        wall_ns = now.wall_ns + self.left_ns(now)
        if abs(wall_ns - self._wall_ns) > _SLEW_NS:
            self._wall_ns = wall_ns
        return self._wall_ns


def _number(record: dict[str, Any], key: str) -> int | None:
    value = record.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValueError(f"{key} is not a number")
    return value
