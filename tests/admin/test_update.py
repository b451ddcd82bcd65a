"""UpdateConfig: its mask, its refusals, and how long it lasts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.harness.admin import Admin, kill_server
from tests.harness.refusal import refused
from tests.harness.service import Service

Write = Callable[[str], object]


def test_an_update_names_its_keys_alone_or_by_mask(admin: Admin, write: Write) -> None:
    write("[jobs]\nrunning = 50\ngrace_seconds = 2\n")
    admin.took_over("jobs.running", 50)
    # Without a mask: what is given.
    answer = admin.update({"jobs": {"running": 60}, "log_level": "warning"})
    assert answer.values["jobs"]["running"] == 60
    assert (admin.value("jobs.running"), admin.value("log_level")) == ((60, "update"), ("warning", "update"))
    # With one: what it names, and nothing else.
    admin.update({"jobs": {"running": 70, "grace_seconds": 9}}, mask=["jobs.running"])
    assert (admin.value("jobs.running"), admin.value("jobs.grace_seconds")) == ((70, "update"), (2, "file"))
    # Named and not given: back to what the others say.
    admin.update({"jobs": {"linger_seconds": 3}}, mask=["jobs.running", "jobs.linger_seconds"])
    assert (admin.value("jobs.running"), admin.value("jobs.linger_seconds")) == ((50, "file"), (3, "update"))
    # A whole section, and all there is.
    admin.update({"jobs": {"timeout_seconds": 9}}, mask=["jobs"])
    assert (admin.value("jobs.linger_seconds"), admin.value("jobs.timeout_seconds")) == ((1, "default"), (9, "update"))
    assert admin.value("log_level") == ("warning", "update")
    admin.update({"jobs": {"timeout_seconds": None}}, mask=["*"])
    assert admin.value("jobs.timeout_seconds") == (None, "update")
    assert admin.value("log_level") == ("info", "default")


def test_an_update_is_refused_whole_with_the_key_at_fault(admin: Admin) -> None:
    before = admin.config()
    good = {"running": 9}
    cases: list[tuple[dict[str, Any], list[str], str, str]] = [
        ({"jobs": {**good, "parallelism": -1}}, [], "INVALID_ARGUMENT", "jobs.parallelism"),
        ({"jobs": {**good, "parallelism": "x"}}, [], "INVALID_ARGUMENT", "jobs.parallelism"),
        ({"jobs": {**good, "parallelism": 1.5}}, [], "INVALID_ARGUMENT", "jobs.parallelism"),
        ({"jobs": {**good, "parallelism": True}}, [], "INVALID_ARGUMENT", "jobs.parallelism"),
        ({"jobs": {**good, "parallelism": None}}, [], "INVALID_ARGUMENT", "jobs.parallelism"),
        ({"jobs": {**good, "parallelism": [1]}}, [], "INVALID_ARGUMENT", "jobs.parallelism"),
        ({"jobs": {**good, "parallelism": {"a": 1}}}, [], "INVALID_ARGUMENT", "jobs.parallelism"),
        ({"jobs": {**good, "parallelism": 1e300}}, [], "INVALID_ARGUMENT", "jobs.parallelism"),
        ({"jobs": {**good, "timeout_seconds": float("nan")}}, [], "INVALID_ARGUMENT", "jobs.timeout_seconds"),
        ({"jobs": {**good, "timeout_seconds": float("inf")}}, [], "INVALID_ARGUMENT", "jobs.timeout_seconds"),
        ({"jobs": {**good, "parallelism": 10}}, [], "INVALID_ARGUMENT", "jobs.parallelism"),
        ({"jobs": {**good, "nothing": 1}}, ["jobs.running"], "INVALID_ARGUMENT", "jobs.nothing"),
        ({"jobs": good}, ["jobs.running", "jobs.nothing"], "INVALID_ARGUMENT", "jobs.nothing"),
        ({"jobs": good, "nothing": {"x": 1}}, [], "INVALID_ARGUMENT", "nothing"),
        ({"jobs": 3}, [], "INVALID_ARGUMENT", "jobs"),
        ({}, [], "INVALID_ARGUMENT", "values"),
        ({"jobs": good, "grpc": {"port": 1}}, [], "FAILED_PRECONDITION", ""),
    ]
    for values, mask, code, field in cases:
        found = refused(lambda values=values, mask=mask: admin.update(values, mask=mask))  # type: ignore[misc]
        assert (found.name, found.fields) == (code, [field] if field else []), values
    assert "grpc.port needs a restart" in found.message
    assert admin.config() == before


def test_of_two_updates_made_for_one_generation_the_second_is_refused(admin: Admin) -> None:
    generation = admin.config().generation
    assert admin.update({"jobs": {"running": 9}}, generation=generation).generation == generation + 1
    found = refused(lambda: admin.update({"jobs": {"running": 8}}, generation=generation))
    assert found.name == "FAILED_PRECONDITION"
    assert f"generation {generation + 1}" in found.message
    assert admin.value("jobs.running") == (9, "update")


def test_an_update_survives_restarts_and_wins_over_file_and_environment(
    configured: Service, admin: Admin, write: Write
) -> None:
    admin.update({"jobs": {"running": 9}, "limits": {"batch_jobs": 3}})
    write("[jobs]\nrunning = 8\nlinger_seconds = 2\n")
    admin.took_over("jobs.linger_seconds", 2)
    generation = admin.config().generation
    kill_server(configured, admin)
    assert (admin.value("jobs.running"), admin.config().generation) == ((9, "update"), generation)
    configured.stop()
    configured.start()
    admin = Admin(configured)
    assert (admin.value("jobs.running"), admin.config().generation) == ((9, "update"), generation)
    assert refused(lambda: admin.api.submit(*["true"] * 4)).name == "RESOURCE_EXHAUSTED"
    admin.update({}, mask=["jobs.running", "limits"])
    assert admin.value("jobs.running") == (8, "file")
    assert admin.api.wait(admin.api.submit(*["true"] * 4)).counts.succeeded == 4


def test_a_damaged_record_of_updates_is_set_aside_and_told(configured: Service, admin: Admin) -> None:
    admin.update({"jobs": {"running": 9}})
    configured.stop()
    (configured.data / "config.json").write_bytes(b"\0" * 40)
    configured.start()
    admin = Admin(configured)
    assert "config.json: cannot be read" in admin.status().config.last_error
    assert admin.value("jobs.running") == (2048, "default")
    (aside,) = (configured.data / "damaged").iterdir()
    assert aside.read_bytes() == b"\0" * 40
