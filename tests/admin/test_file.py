"""The configuration file of a running service changes, and is good, bad or gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.harness.admin import Admin, ConfigMap, kill_server
from tests.harness.refusal import refused
from tests.harness.service import Service

Write = Callable[[str], object]


def test_a_change_of_the_file_takes_effect_and_says_so(admin: Admin, write: Write) -> None:
    assert admin.value("jobs.running") == (2048, "default")
    write("[jobs]\nrunning = 7\n")
    admin.took_over("jobs.running", 7)
    assert admin.value("jobs.running") == (7, "file")
    assert admin.status().config.generation == 2


BAD = {
    "half written": ('[jobs]\nrunning = 3\npath = "/us', "jobworker.toml:3: is not TOML"),
    "garbage": ("\x00\x01\x02", "is not TOML"),
    "empty": ("", "is empty"),
    "an unknown key": ("[jobs]\nrunning = 3\nruning = 3\n", "jobworker.toml:3: jobs.runing: there is no such key"),
    "a bad value": ("[jobs]\nrunning = 3\nparallelism = -3\n", "jobworker.toml:3: jobs.parallelism"),
    "contradictory": ("[jobs]\nrunning = 3\nparallelism = 4\n", "jobs.parallelism: 4 is more than jobs.running, 3"),
    "a restart key": ("[jobs]\nrunning = 3\n[grpc]\nhost = '0.0.0.0'\n", "grpc.host: a change needs a restart"),
}


def test_a_bad_file_leaves_the_old_one_in_force_and_a_good_one_heals_it(
    configured: Service, admin: Admin, config_file: Path, write: Write
) -> None:
    write("[jobs]\nrunning = 5\n")
    admin.took_over("jobs.running", 5)
    generation = admin.status().config.generation
    for content, words in BAD.values():
        write(content)
        admin.refused_file(words)
        assert admin.value("jobs.running") == (5, "file")
        assert admin.status().config.generation == generation
    config_file.unlink()
    admin.refused_file("there is no such file")
    assert admin.value("jobs.running") == (5, "file")
    api = configured.api()
    assert api.wait(api.submit("true")).counts.succeeded == 1
    write("[jobs]\nrunning = 6\n")
    admin.took_over("jobs.running", 6)
    assert "ended with" not in configured.output()
    assert "configuration refused" in configured.output()


def test_a_server_that_dies_while_the_file_is_bad_comes_back_as_it_was(
    configured: Service, admin: Admin, config_file: Path, write: Write
) -> None:
    write("[jobs]\nrunning = 5\n")
    admin.took_over("jobs.running", 5)
    for content in ("[jobs]\nrunning = ", "[jobs]\nrunning = 3\n[grpc]\nhost = '0.0.0.0'\n", ""):
        write(content)
        admin.refused_file("jobworker.toml")
        kill_server(configured, admin)
        assert admin.value("jobs.running") == (5, "file")
        assert "jobworker.toml" in admin.status().config.last_error
    config_file.unlink()
    kill_server(configured, admin)
    admin.refused_file("there is no such file")
    write("[jobs]\nrunning = 6\n")
    admin.took_over("jobs.running", 6)


def test_a_restart_of_the_whole_service_takes_the_new_file(
    configured: Service, admin: Admin, write: Write, tmp_path: Path
) -> None:
    write("[grpc]\nmax_message_bytes = 70000\n")
    admin.refused_file("needs a restart")
    configured.stop()
    configured.start()
    admin = Admin(configured)
    assert admin.value("grpc.max_message_bytes") == (70000, "file")
    assert admin.status().config.last_error == ""
    assert refused(lambda: admin.api.submit("#" * 80000)).name == "RESOURCE_EXHAUSTED"


def test_a_config_map_that_is_swapped_is_read_again_each_time(tmp_path: Path) -> None:
    mount = ConfigMap(tmp_path / "etc", "[jobs]\nrunning = 100\n")
    service = Service(tmp_path / "service", CONFIG=str(mount.file))
    try:
        admin = Admin(service.start())
        for running in range(101, 105):
            mount.swap(f"[jobs]\nrunning = {running}\n")
            admin.took_over("jobs.running", running)
        mount.swap("[jobs]\nrunning = 0\n")
        admin.refused_file("jobs.running")
        mount.swap(None)
        admin.refused_file("there is no such file")
        assert admin.value("jobs.running") == (104, "file")
        mount.swap("[jobs]\nrunning = 9\n")
        admin.took_over("jobs.running", 9)
    finally:
        service.stop()
