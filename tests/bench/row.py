"""A figure beside its floor, which was measured in the same run, and the goal it is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Goal:
    """What a row's ratio to its floor, or (`absolute`) its value, is to be: at least, or at most, so much."""

    kind: Literal["<=", ">="]
    bound: float
    absolute: bool = False

    def met(self, row: Row) -> bool | None:
        """None: there was nothing to compare with."""
        found = row.value if self.absolute else row.ratio
        if found is None:
            return None
        return found <= self.bound if self.kind == "<=" else found >= self.bound


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    value: float
    unit: str
    floor: float | None = None  # in the same unit
    floor_is: str = ""  # what the floor is, or what else the value stands beside
    goal: Goal | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The value over its floor."""
        return self.value / self.floor if self.floor else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None: there is none."""
        return self.goal.met(self) if self.goal else None

    def text(self) -> str:
        """For people."""
        line = f"{self.name}: {figure(self.value)} {self.unit}"
        if self.floor is not None:
            line += f" | {self.floor_is} {figure(self.floor)} {self.unit}"
            line += f", ratio {figure(self.ratio)}" if self.ratio is not None else ""
        if self.goal is not None:
            unit = f" {self.unit}" if self.goal.absolute else ""
            verdict = {True: "met", False: "NOT MET", None: "not measured"}[self.met]
            line += f" | goal {self.goal.kind} {figure(self.goal.bound)}{unit}: {verdict}"
        return f"{line}\n    {self.note}" if self.note else line

    def json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "floor": self.floor,
            "floor_is": self.floor_is or None,
            "ratio": self.ratio,
            "goal": f"{self.goal.kind} {figure(self.goal.bound)}" if self.goal else None,
            "goal_of": ("value" if self.goal.absolute else "ratio") if self.goal else None,
            "met": self.met,
            "note": self.note or None,
        }


def figure(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
