"""The configuration in force: what changes it, what does not, and what is kept of it. Real files, no service."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobworker.server.config.live import LiveConfig
from jobworker.server.config.model import Settings
from jobworker.server.config.sources import ConfigError
from jobworker.server.errors import InvalidRequestError, PreconditionError, UnavailableError


class Lines:
    """The service's log."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    debug = warning = error = info


class Place:
    """A data folder, a file and a log."""

    def __init__(self, root: Path) -> None:
        self.file = root / "jobworker.toml"
        self.kept = root / "kept.toml"
        self.record = root / "config.json"
        self.environment = {"JOBWORKER_PATHS__DATA": str(root)}
        self.log = Lines()
        self.file.write_text("")

    def open(self, *, kept: bool = False) -> LiveConfig:
        """A server's start."""
        now = iter(range(1, 1000))
        config = LiveConfig(
            file=self.file, environment=self.environment, kept=self.kept if kept else None, clock_ns=lambda: next(now)
        )
        config.start(self.log)
        return config

    def write(self, text: str) -> None:
        self.file.write_text(text)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def refused(call: Callable[[], object], kind: type[Exception]) -> Any:
    with pytest.raises(kind) as caught:
        call()
    return caught.value


def running(config: LiveConfig) -> int:
    return config.settings.jobs.running


# The file


def test_a_good_file_takes_effect_and_every_part_is_told(place: Place) -> None:
    config = place.open()
    told: list[Settings] = []
    config.tell(told.append)
    place.write("[jobs]\nrunning = 9\n")
    config.reload()
    assert [settings.jobs.running for settings in told] == [2048, 9]
    assert (config.generation, config.last_error, running(config)) == (2, "", 9)
    assert ("configuration changed", {"generation": 2, "jobs_running": 9}) in place.log.events


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[jobs]\nrunning = 0\n", "jobworker.toml:2: jobs.running: "),
        ("[jobs]\nrunning = 8\nparallelism = 9\n", "jobworker.toml:3: jobs.parallelism: 9 is more than"),
        ("[jobs]\nrunning = 8\n[grpc]\nport = 1\n", "grpc.port: a change needs a restart"),
        ("[jobs]\nrunning = 8\nx = 1\n", "jobworker.toml:3: jobs.x: there is no such key"),
        ("[jobs]\nrunning = 8\ngrace_sec", "jobworker.toml:3"),
        ("", "is empty: is it still being written?"),
        (None, "there is no such file"),
    ],
)
def test_a_bad_file_changes_nothing_and_the_reason_is_told_until_it_is_good(
    place: Place, text: str | None, words: str
) -> None:
    place.write("[jobs]\nrunning = 7\n")
    config = place.open()
    told: list[Settings] = []
    config.tell(told.append)
    if text is None:
        place.file.unlink()
    else:
        place.write(text)
    for _ in range(2):
        config.reload()
        assert words in config.last_error
        assert config.last_error_at is not None
        assert (running(config), config.generation, len(told)) == (7, 1, 1)
    assert [event for event, _ in place.log.events].count("configuration refused") == 1
    place.write("[jobs]\nrunning = 7\n")
    config.reload()
    assert (config.last_error, config.generation) == ("", 1)


def test_the_same_again_is_no_new_generation(place: Place) -> None:
    config = place.open()
    place.write("# only a comment\n")
    config.reload()
    config.update({"jobs.running": 5}, (), generation=0)
    config.update({"jobs.running": 5}, (), generation=0)
    assert config.generation == 2


def test_generations_are_counted_over_restarts(place: Place) -> None:
    assert place.open().generation == 1
    assert place.open().generation == 1
    place.write("[jobs]\nrunning = 3\n")
    assert place.open().generation == 2
    place.open().update({"jobs.running": 4}, (), generation=0)
    assert place.open().generation == 3


# UpdateConfig


def test_an_update_wins_over_the_file_survives_and_can_be_taken_back(place: Place) -> None:
    place.write("[jobs]\nrunning = 3\n")
    place.open().update({"jobs.running": 5, "jobs.timeout_seconds": 9}, (), generation=0)
    config = place.open()
    assert (running(config), config.sources["jobs.running"]) == (5, "update")
    place.write("[jobs]\nrunning = 4\n")
    config.reload()
    assert (running(config), config.last_error) == (5, "")
    config.update({}, {"jobs.running"}, generation=0)
    assert (running(config), config.sources["jobs.running"], config.settings.jobs.timeout_seconds) == (4, "file", 9)
    assert running(place.open()) == 4


def test_a_refused_update_leaves_no_trace(place: Place) -> None:
    config = place.open()
    before = place.record.read_bytes()
    wrong = refused(
        lambda: config.update({"jobs.running": 0, "log_level": "debug", "no.key": 1}, {"x"}, generation=0),
        InvalidRequestError,
    )
    assert {violation.field for violation in wrong.violations} == {"jobs.running", "no.key", "x"}
    contradiction = refused(
        lambda: config.update({"jobs.running": 2, "jobs.parallelism": 3}, (), generation=0), InvalidRequestError
    )
    assert [violation.field for violation in contradiction.violations] == ["jobs.parallelism"]
    restart = refused(lambda: config.update({"jobs.running": 2, "grpc.port": 1}, (), generation=0), PreconditionError)
    assert "grpc.port needs a restart" in str(restart)
    conflict = refused(lambda: config.update({"jobs.running": 2}, (), generation=7), PreconditionError)
    assert "generation 1" in str(conflict)
    assert (running(config), config.settings.log_level, config.generation) == (2048, "info", 1)
    assert place.record.read_bytes() == before


def test_a_restart_key_may_be_named_with_the_value_that_it_has(place: Place) -> None:
    config = place.open()
    config.update({"grpc.port": 50051, "jobs.running": 6}, (), generation=1)
    assert json.loads(place.record.read_bytes())["updates"] == {"jobs.running": 6}


def test_a_contradiction_between_file_and_update_is_told_on_either_side(place: Place) -> None:
    place.write("[jobs]\nparallelism = 8\n")
    config = place.open()
    wrong = refused(lambda: config.update({"jobs.running": 7}, (), generation=0), InvalidRequestError)
    assert str(place.file) in str(wrong)
    config.update({"jobs.running": 9}, (), generation=0)
    place.write("[jobs]\nparallelism = 10\n")
    config.reload()
    assert "jobworker.toml:2: jobs.parallelism: 10 is more than jobs.running, 9" in config.last_error
    assert config.settings.jobs.parallelism == 8


def test_a_change_that_cannot_be_written_does_not_take_effect(place: Place) -> None:
    config = place.open()
    place.record.unlink()
    place.record.mkdir()  # so that no file can be renamed there
    refused(lambda: config.update({"jobs.running": 6}, (), generation=0), UnavailableError)
    assert running(config) == 2048
    place.write("[jobs]\nrunning = 6\n")
    config.reload()
    assert (running(config), config.generation) == (2048, 1)
    assert "cannot be written" in config.last_error
    assert not list(place.record.parent.glob("*.new"))
    place.record.rmdir()
    config.reload()
    assert (running(config), config.last_error) == (6, "")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"generation": "1", "updates": {}, "digest": ""}', "\0" * 64]
)
def test_a_damaged_record_is_told_and_not_taken_for_empty(place: Place, content: str) -> None:
    place.record.write_text(content)
    config = LiveConfig(file=place.file, environment=place.environment, clock_ns=lambda: 1)
    assert config.damaged
    assert str(place.record) in config.last_error
    assert place.record.read_text() == content  # whoever starts the server sets it aside
    config.start(place.log)
    config.reload()
    assert config.damaged
    config.update({"jobs.running": 3}, (), generation=0)
    assert (config.damaged, config.last_error) == (False, "")


def test_a_server_starts_where_nothing_can_be_written(place: Place) -> None:
    place.record.with_name("config.json.new").mkdir()
    config = place.open()
    assert config.generation == 1
    assert [event for event, _ in place.log.events] == ["the configuration's generation was not recorded"]
    refused(lambda: config.update({"jobs.running": 6}, (), generation=0), UnavailableError)


def test_a_record_with_a_key_of_another_version_is_refused_by_name(place: Place) -> None:
    place.record.write_text('{"generation": 1, "updates": {"jobs.gone": 1}, "digest": ""}')
    assert "UpdateConfig: jobs.gone" in str(refused(place.open, ConfigError))


# A server that is started again in the middle


def test_a_server_that_is_started_again_goes_on_with_what_was_in_force(place: Place) -> None:
    place.write("[jobs]\nrunning = 3\n")
    place.open(kept=True)
    for text in (
        "[jobs]\nrunning = ",
        "[jobs]\nrunning = 5\n[grpc]\nport = 1\n",
        "",
        "[jobs]\nparallelism = 1000000\n",
    ):
        place.write(text)
        config = place.open(kept=True)
        assert running(config) == 3
        assert config.last_error
        config.reload()
        assert running(config) == 3
        assert config.last_error
    place.file.unlink()
    config = place.open(kept=True)
    assert (running(config), config.generation) == (3, 1)
    place.write("[jobs]\nrunning = 4\n")
    config.reload()
    assert (running(config), config.last_error) == (4, "")
    place.file.unlink()
    assert running(place.open(kept=True)) == 4


def test_a_service_that_is_started_anew_takes_the_file_as_it_is(place: Place) -> None:
    place.open(kept=True)
    os.unlink(place.kept)
    place.write("[jobs]\nrunning = 3\n[grpc]\nport = 1\n")
    assert place.open(kept=True).settings.grpc.port == 1
    place.write("[jobs]\nrunning = 0\n")
    os.unlink(place.kept)
    refused(lambda: place.open(kept=True), ConfigError)
