"""A configuration change applies whole or not at all, and an invalid one leaves the old one in force."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.harness.admin import Admin, kill_server
from tests.harness.service import Service
from tests.harness.wait import until

# Always the same number in all of these: whoever sees two different ones has seen half a change.
KEYS = ("jobs.running", "limits.batch_jobs", "limits.user_unfinished_jobs", "limits.user_unfinished_batches")


def file_of(number: int) -> str:
    """A configuration of one number."""
    return (
        f"[jobs]\nrunning = {number}\n[limits]\nbatch_jobs = {number}\n"
        f"user_unfinished_jobs = {number}\nuser_unfinished_batches = {number}\n"
    )


def spoilt(number: int, dice: random.Random) -> str:
    """The file of a number, that must not take effect: cut short, or with a bad value, key or restart key."""
    text = file_of(number)
    return dice.choice(
        [
            text[: dice.randrange(text.index("user_unfinished_batches") + 1, text.rindex("=") + 1)],
            text + "free_disk_bytes = -1\n",
            text + "free_disk_byte = 1\n",
            text + "[grpc]\nmax_message_bytes = 70000\n",
            text.replace("[limits]", f"parallelism = {number + 1}\n[limits]"),
            text.replace("\n[limits]", "\n[limits"),
            "",
        ]
    )


def numbers(admin: Admin) -> tuple[int, set[float]]:
    """The generation in force, and the numbers in it."""
    config = admin.config()
    return config.generation, {e.value.number_value for e in config.entries if e.key in KEYS}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[Service, Path]]:
    """A service, and its configuration file with the number 100."""
    file = tmp_path / "jobworker.toml"
    file.write_text(file_of(100))
    service = Service(tmp_path / "service", CONFIG=str(file))
    try:
        yield service.start(), file
    finally:
        service.stop()


def test_nobody_ever_sees_half_a_change_whatever_is_written(place: tuple[Service, Path]) -> None:
    service, file = place
    admin, watcher = Admin(service), Admin(service)
    dice = random.Random(9)
    seen: dict[int, set[float]] = {}
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            generation, found = numbers(watcher)
            seen.setdefault(generation, set()).update(found)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for number in range(101, 125):
            before = numbers(admin)
            for _ in range(2):
                # By the two ways that people write files.
                text = spoilt(number, dice)
                if dice.random() < 0.5:
                    file.write_text(text)
                else:
                    new = file.with_name("new")
                    new.write_text(text)
                    new.rename(file)
                until(lambda: admin.status().config.last_error, "it is refused")
                assert numbers(admin) == before
            file.write_text(file_of(number))
            until(lambda number=number: numbers(admin)[1] == {number}, "the good one is in force")  # type: ignore[misc]
            until(lambda: not admin.status().config.last_error, "no error is left")
    finally:
        stop.set()
        thread.join()
    assert len(seen) > 5
    for generation, found in seen.items():
        assert len(found) == 1, generation


def nested(number: float) -> dict[str, Any]:
    """The numbers as UpdateConfig takes them."""
    return {
        "jobs": {"running": number},
        "limits": {
            "batch_jobs": number, "user_unfinished_jobs": number, "user_unfinished_batches": number,
        },
    }  # fmt: skip


def test_an_update_that_was_answered_is_whole_after_any_death_and_one_that_was_not_is_whole_or_absent(
    place: tuple[Service, Path],
) -> None:
    service, _ = place
    admin = Admin(service)
    dice = random.Random(7)
    answered = 100
    for turn in range(6):
        server = service.child("server")
        killer = threading.Timer(dice.uniform(0.0, 0.15), os.kill, (server, signal.SIGKILL))
        killer.start()
        tried = answered
        try:
            while True:
                tried = answered + 1
                admin.update(nested(tried))
                answered = tried
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017 # type: ignore[attr-defined]
        killer.join()
        until(lambda server=server: service.child("server") != server, "another server runs")  # type: ignore[misc]
        service.ready()
        kill_server(service, admin) if turn == 3 else None
        found = until(lambda: settled(admin), "the next server answers")
        assert len(found) == 1
        assert found <= {answered, tried}
        answered = int(found.pop())


def settled(admin: Admin) -> set[float]:
    """The numbers in force; none while the connection is the old server's."""
    try:
        return numbers(admin)[1]
    except grpc.RpcError:
        return set()
