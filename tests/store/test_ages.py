"""How old a file is, under clocks that are set: enumerated on a machine of numbers."""

from __future__ import annotations

import random

import pytest

from jobworker.server.store.ages import Ages

START = 1_800_000_000.0
HOUR = 3600.0


class Machine:
    """One clock that goes on, and one of the day, which is set; `Ages` is told as the server tells it."""

    def __init__(self) -> None:
        self.steady = 1000.0
        self.ahead = START - self.steady
        self.ages = Ages(wall=self.wall, steady=self.steady)
        self.files: dict[str, tuple[float, float]] = {}  # time as written, true time

    @property
    def wall(self) -> float:
        return self.steady + self.ahead

    def write(self) -> str:
        """A file of now, as a batch that finishes: the clocks are noted right after."""
        name = str(len(self.files))
        self.files[name] = (self.wall, self.steady)
        self.ages.note(wall=self.wall, steady=self.steady)
        return name

    def round(self) -> dict[str, float]:
        """What a sweep finds."""
        self.ages.note(wall=self.wall, steady=self.steady)
        self.ages.begin()
        return {name: self.ages.of(name, wall, steady=self.steady) for name, (wall, _) in self.files.items()}

    def true(self, name: str) -> float:
        return self.steady - self.files[name][1]


@pytest.mark.parametrize("jump", [HOUR, -HOUR, 24 * HOUR, -24 * HOUR, 400 * 24 * HOUR, -400 * 24 * HOUR])
def test_a_jump_there_and_back_makes_nothing_older_or_younger(jump: float) -> None:
    machine = Machine()
    before = machine.write()
    machine.steady += 60
    machine.ahead += jump
    assert machine.round()[before] == pytest.approx(60, abs=2)
    between = machine.write()
    machine.steady += 60
    found = machine.round()
    assert found[before] == pytest.approx(120, abs=2)
    assert found[between] == pytest.approx(60, abs=2)
    machine.ahead -= jump
    after = machine.write()
    machine.steady += 60
    found = machine.round()
    assert found[before] == pytest.approx(180, abs=2)
    assert found[between] == pytest.approx(120, abs=2)
    assert found[after] == pytest.approx(60, abs=2)


@pytest.mark.parametrize("seed", range(200))
def test_nothing_of_this_life_is_taken_for_older_than_it_is(seed: int) -> None:
    chance = random.Random(seed)
    machine = Machine()
    for _ in range(60):
        machine.steady += chance.choice([0.001, 1, 10, 600, HOUR, 5 * HOUR])
        deed = chance.random()
        if deed < 0.4:
            machine.ahead += chance.choice([-1, 1]) * chance.choice([0.4, 3, 90, HOUR, HOUR, 26 * HOUR])
        elif deed < 0.8:
            machine.write()
        else:
            found = machine.round()
            assert all(age <= machine.true(name) for name, age in found.items())
    machine.steady += 40 * 26 * HOUR  # more than all jumps together
    assert all(age > 0 for age in machine.round().values())


def test_what_an_earlier_life_wrote_has_the_age_that_the_clock_told_at_the_start() -> None:
    machine = Machine()
    machine.files["old"] = (START - 500, 500)
    assert machine.round()["old"] == 500
    machine.steady += 100
    machine.ahead += HOUR
    assert machine.round()["old"] == 600
    machine.ahead -= 2 * HOUR
    assert machine.round()["old"] == 600


def test_what_has_a_time_to_come_grows_old_all_the_same() -> None:
    machine = Machine()
    machine.files["of 2099"] = (START + 70 * 365 * 24 * HOUR, 0)
    assert machine.round()["of 2099"] == 0
    for hours in range(1, 4):
        machine.steady += HOUR
        assert machine.round()["of 2099"] == hours * HOUR
