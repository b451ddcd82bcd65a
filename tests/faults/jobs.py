"""Jobs whose doings are known beforehand: what each prints, how it ends, and the marks that it leaves outside of the
service. All of it follows from the seed of its batch. Knows no service."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

# Weights of the sizes of batches.
SIZES = (1,) * 13 + (20,) * 6 + (500,)
_BULK_LINE = 64
_SIGNAL = 9  # SIGKILL: no shell catches it


@dataclass(frozen=True)
class JobSpec:
    """One job. It prints `lines` lines, then `bulk` bytes, sleeps between them, and exits, or is killed by itself."""

    tag: str
    index: int
    lines: int
    bulk: int
    pause_ms: int
    code: int
    signalled: bool = False

    def command(self, marks: Path) -> str:
        """For `sh -c`. Each mark is one write with O_APPEND: marks of many jobs lie whole, one after another."""
        name = f"{self.tag} {self.index}"
        half = self.lines // 2
        parts = [f"exec 3>>{marks}", f"echo S {name} >&3", "n=0", _loop(name, half)]
        if self.pause_ms:
            parts.append(f"sleep {self.pause_ms / 1000}")
        parts.append(_loop(name, self.lines))
        if self.bulk:
            parts.append(f"yes '{self._bulk_line()}' | head -c {self.bulk}")
        parts.append(f"echo E {name} >&3")
        parts.append("kill -KILL $$" if self.signalled else f"exit {self.code}")
        return "; ".join(part for part in parts if part)

    def output(self) -> bytes:
        """Every byte that it prints when nothing ends it before. None of them is NUL."""
        lines = b"".join(f"{self.tag} {self.index} line {n}\n".encode() for n in range(self.lines))
        line = f"{self._bulk_line()}\n".encode()
        return lines + (line * (self.bulk // len(line) + 1))[: self.bulk]

    @property
    def outcome(self) -> tuple[str, int]:
        """As the service is to tell it."""
        return ("signal", _SIGNAL) if self.signalled else ("exit_code", self.code)

    def _bulk_line(self) -> str:
        return f"{self.tag} {self.index} bulk ".ljust(_BULK_LINE - 1, "=")


def _loop(name: str, end: int) -> str:
    return f'while [ $n -lt {end} ]; do echo "{name} line $n"; n=$((n+1)); done'


def make_jobs(tag: str, count: int, dice: random.Random) -> list[JobSpec]:
    """The jobs of a batch: most of them quick, some long enough to be met by a fault, a few that print much."""
    jobs = []
    for index in range(count):
        slow = dice.random() < (0.5 if count == 1 else 0.25 if count <= 20 else 0.02)
        much = dice.random() < (0.1 if count <= 20 else 0.01)
        jobs.append(
            JobSpec(
                tag=tag,
                index=index,
                lines=dice.randrange(12),
                bulk=dice.randrange(1, 200_000) if much else 0,
                pause_ms=dice.randrange(50, 800) if slow else 0,
                code=dice.choice((0, 0, 0, 0, 0, 1, 7, 255)),
                signalled=dice.random() < 0.03,
            )
        )
    return jobs


@dataclass
class Marks:
    """What jobs themselves said: (tag, index) -> how often it started, and how often it reached its end."""

    started: Counter[tuple[str, int]]
    ended: Counter[tuple[str, int]]

    @classmethod
    def none(cls) -> Marks:
        """Before any job ran."""
        return cls(Counter(), Counter())

    @classmethod
    def read(cls, path: Path) -> Marks:
        """From their file."""
        marks = cls.none()
        for line in path.read_text().splitlines():
            kind, tag, index = line.split()
            {"S": marks.started, "E": marks.ended}[kind][tag, int(index)] += 1
        return marks

    def any_of(self, tag: str) -> list[int]:
        """Which jobs of a batch ran, or began to."""
        return sorted(index for (name, index), times in (self.started | self.ended).items() if name == tag and times)
