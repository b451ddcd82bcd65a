"""What a run prints: a line as things happen, and a table at the end."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from tests.faults.history import History, Kind


@dataclass
class Row:
    """Of one fault. `skipped`: why there was none."""

    name: str
    what: str
    wanted: int
    count: int = 0
    batches: int = 0
    jobs: int = 0
    seconds: float = 0.0
    kinds: Counter[Kind] = field(default_factory=Counter)
    undecided: int = 0
    documented: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    skipped: str = ""
    note: str = ""
    idle_rounds: int = 0
    failure: str = ""  # of the trial itself

    def add(self, history: History) -> None:
        """What a trial came to."""
        known = [b for b in history.batches.values() if b.expected]
        self.batches += len(known)
        self.jobs += sum(len(b.jobs) for b in known)
        self.kinds += Counter(v.kind for v in history.violations)
        self.undecided += len(history.undecided_lost)
        self.documented += history.documented
        for name, count in history.statuses.items():
            self.statuses[name] = self.statuses.get(name, 0) + count

    @property
    def violations(self) -> int:
        """In all."""
        return self.kinds.total()

    @property
    def proves_nothing(self) -> bool:
        """It ran, and nothing was tried."""
        return not self.skipped and not (self.count and self.jobs)


class Report:
    """Rows so far."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """A line of progress."""
        print(f"[{time.monotonic() - self._began:6.0f} s] {text}", flush=True)

    @property
    def good(self) -> bool:
        """All that was to be tried was, and nothing was found."""
        return not self.violations and not any(row.proves_nothing or row.failure for row in self.rows)

    @property
    def violations(self) -> int:
        """Of all faults."""
        return sum(row.violations for row in self.rows)

    def table(self) -> str:
        """The end."""
        lines = [f"{'fault':<36}{'count':>10}{'batches':>9}{'jobs':>8}{'seconds':>9}  violations"]
        for row in self.rows:
            if row.skipped:
                lines.append(f"{row.what:<36}   skipped: {row.skipped}")
                continue
            count = f"{row.count}/{row.wanted}"
            lines.append(f"{row.what:<36}{count:>10}{row.batches:>9}{row.jobs:>8}{row.seconds:>9.0f}  {row.violations}")
            lines += [f"{'':<38}{number} x {kind}" for kind, number in row.kinds.most_common()]
            if row.undecided:
                lines.append(f"{'':<38}({row.undecided} LOST without a mark, within what ran at a time: undecided)")
            if row.documented:
                lines.append(f"{'':<38}({row.documented} logs with other bytes: data=writeback, docs/install.md)")
            if row.proves_nothing:
                lines.append(f"{'':<38}(no fault was injected, or no batch was accepted: this says nothing)")
            if row.failure:
                lines.append(f"{'':<38}(the trial itself failed: {row.failure})")
            if row.idle_rounds:
                lines.append(f"{'':<38}({row.idle_rounds} rounds in which no batch was accepted)")
            if row.note:
                lines.append(f"{'':<38}({row.note})")
            if row.statuses:
                said = ", ".join(f"{name} {n}" for name, n in sorted(row.statuses.items()))
                lines.append(f"{'':<38}(calls that failed: {said})")
        lines.append(f"{self.violations} violations")
        lines += [f"LEFT OUT: {row.what}: {row.skipped}" for row in self.rows if row.skipped]
        return "\n".join(lines)
