"""What file, environment and UpdateConfig say together, and what is told of each mistake."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobworker.server.config.keys import KEYS, flat, in_words
from jobworker.server.config.places import line_of
from jobworker.server.config.sources import ConfigError, File, Source, combine, load, read

FILE = Path("jobworker.toml")


def problems(
    text: str, environment: dict[str, str] | None = None, updates: dict[str, object] | None = None
) -> list[str]:
    """Each line that is told of a configuration that is not valid."""
    with pytest.raises(ConfigError) as caught:
        combine(File(FILE, text.encode()), environment or {}, updates or {})
    return [str(problem) for problem in caught.value.problems]


def test_every_key_says_what_it_is_and_whether_a_change_takes_a_restart() -> None:
    for key in KEYS.values():
        assert len(key.description) > 10, key.path
        assert key.description.endswith(".")
    assert not KEYS["grpc.port"].live
    assert KEYS["jobs.running"].live


def test_a_key_that_is_a_quantity_has_its_unit_in_its_name() -> None:
    countable = {"grpc.port", "jobs.running", "jobs.parallelism", "limits.batch_jobs", "limits.user_unfinished_jobs",
                 "limits.user_unfinished_batches", "rest.connections", "rest.connections_per_client", "logs.files",
                 "logs.jobs_per_batch", "traces.jobs_per_batch", "grpc.connections", "grpc.connections_per_client",
                 "limits.user_calls", "limits.user_streams", "limits.user_uploads", "audit.files"}  # fmt: skip
    for path, value in flat(load(None, {}).settings).items():
        if (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and path not in countable
            and not path.endswith(".port")
        ):
            assert path.endswith(("_seconds", "_bytes")), path


def test_later_sources_win_and_each_value_says_where_it_came_from() -> None:
    text = b"[jobs]\nrunning = 20\ngrace_seconds = 2\nlinger_seconds = 3\n"
    environment = {"JOBWORKER_JOBS__RUNNING": "30", "JOBWORKER_JOBS__GRACE_SECONDS": "4"}
    loaded = combine(File(FILE, text), environment, {"jobs.running": 40})
    jobs = loaded.settings.jobs
    assert (jobs.running, jobs.grace_seconds, jobs.linger_seconds, jobs.log_bytes) == (40, 4, 3, 64 << 30)
    wanted = (Source.UPDATE, Source.ENVIRONMENT, Source.FILE, Source.DEFAULT)
    keys = ("jobs.running", "jobs.grace_seconds", "jobs.linger_seconds", "jobs.log_bytes")
    assert tuple(loaded.sources[key] for key in keys) == wanted


def test_none_can_be_said_where_there_is_no_null() -> None:
    text = b'[jobs]\nlog_bytes = "none"\n'
    loaded = combine(File(FILE, text), {"JOBWORKER_JOBS__TIMEOUT_SECONDS": "none"}, {"jobs.path": None})
    assert (loaded.settings.jobs.log_bytes, loaded.settings.jobs.timeout_seconds) == (None, None)


def test_variables_of_others_that_begin_like_ours_are_passed_over_and_mistakes_in_ours_are_not() -> None:
    environment = {"JOBWORKER_SERVICE_HOST": "10.0.0.1", "JOBWORKER_PORT": "tcp://10.0.0.1:50051",
                   "JOBWORKER_CONFIG": "/etc/jobworker.toml", "JOBWORKER_JOB_INDEX": "3"}  # fmt: skip
    load(None, environment)
    assert problems("", {**environment, "JOBWORKER_JOBS__RUNING": "3"}) == [
        "JOBWORKER_JOBS__RUNING: jobs.runing: there is no such key; is it jobs.running?"
    ]


MISTAKES = {
    "an unknown key": ("[grpc]\n\nprot = 1\n", "jobworker.toml:3: grpc.prot: there is no such key; is it grpc.port?"),
    "an unknown section": ("# x\n[nothing]\na = 1\n", "jobworker.toml:2: nothing: there is no such key"),
    "a wrong type": ('[grpc]\nport = "many"\n', "jobworker.toml:2: grpc.port: input should be a valid integer"),
    "a number that is none": ("[jobs]\nrunning = true\n", "jobworker.toml:2: jobs.running: is true or false"),
    "half a job": ("[jobs]\nrunning = 1.5\n", "jobworker.toml:2: jobs.running: input should be a valid integer"),
    "too high": ("[grpc]\nport = 65536\n", "jobworker.toml:2: grpc.port: input should be less than or equal to 65535"),
    "for ever": ("[jobs]\ntimeout_seconds = inf\n", "jobworker.toml:2: jobs.timeout_seconds: input should be"),
    "not a number": ("[jobs]\ntimeout_seconds = nan\n", "jobworker.toml:2: jobs.timeout_seconds: input should be"),
    "a list": ('log_level = ["info"]\n', "jobworker.toml:1: log_level: input should be 'debug'"),
    "a date": ("[jobs]\nrunning = 2026-01-01\n", "jobworker.toml:2: jobs.running: input should be a valid"),
    "no path": ("[paths]\ndata = 3\n", "jobworker.toml:2: paths.data: should be a path"),
    "a value for a section": ("jobs = 5\n", "jobworker.toml:1: jobs: is a section, [jobs], and takes no value"),
    "a section twice as deep": ("[jobs.running]\nx = 1\n", "jobworker.toml:1: jobs.running: input should be a valid"),
    "dotted": ("\ngrpc.port = -1\n", "jobworker.toml:2: grpc.port: input should be greater than or equal to 0"),
    "inline": ("grpc = { port = -1 }\n", "jobworker.toml:1: grpc.port: input should be greater than or equal to 0"),
    "behind a long text": (
        '[jobs]\npath = """\n[grpc]\nport = 1\n"""\nrunning = 0\n',
        "jobworker.toml:6: jobs.running",
    ),
    "a quoted path": ('"jobs.running" = 3\n', 'jobworker.toml: "jobs.running": there is no such key'),
    "no TOML": ("[grpc]\nport 5\n", "jobworker.toml:2:6: is not TOML: Expected '=' after a key"),
    "half a file": ('[jobs]\nrunning = 3\npath = "/us', "jobworker.toml:3: is not TOML: Unterminated string"),
    "said twice": ("[jobs]\nrunning = 3\nrunning = 4\n", "jobworker.toml:3:12: is not TOML: Cannot overwrite a value"),
    "contradictory": (
        "[jobs]\nrunning = 3\nparallelism = 4\n",
        "jobworker.toml:3: jobs.parallelism: 4 is more than jobs.running, 3",
    ),
    "contradictory limits": (
        "[limits]\nbatch_jobs = 30\nuser_unfinished_jobs = 20\n",
        "jobworker.toml:2: limits.batch_jobs: 30 is more than limits.user_unfinished_jobs, 20",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_told_with_its_line_and_key(case: str) -> None:
    text, words = MISTAKES[case]
    (said,) = problems(text)
    assert said.startswith(words)
    assert "\n" not in said


def test_all_mistakes_are_told_at_once_each_with_its_place() -> None:
    text = "[jobs]\nrunning = 0\nx = 1\n"
    said = problems(text, {"JOBWORKER_GRPC__PORT": "-1"}, {"log_level": "loud"})
    assert {line.split(": ")[0] for line in said} == {
        "jobworker.toml:2", "jobworker.toml:3", "JOBWORKER_GRPC__PORT", "UpdateConfig",
    }  # fmt: skip


def test_defaults_contradict_nothing() -> None:
    loaded = combine(File(FILE, b"[jobs]\nrunning = 1\n[limits]\nuser_unfinished_jobs = 1\n"), {}, {})
    assert loaded.settings.jobs.running == 1


def test_bytes_that_are_no_text_are_told_with_their_line() -> None:
    with pytest.raises(ConfigError, match=r"jobworker.toml:2: is not UTF-8"):
        combine(File(FILE, b"a = 1\nb = '\xff'\n"), {}, {})


def test_a_file_that_cannot_be_a_configuration_is_told_and_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "huge").write_bytes(b"#" * (2 << 20))
    (tmp_path / "loop").symlink_to("loop")
    cases = {"pipe": "not a regular file", ".": "Is a directory", "no": "there is no such file", "huge": "larger than",
             "loop": "cannot be read"}  # fmt: skip
    for name, words in cases.items():
        with pytest.raises(ConfigError, match=words):
            read(tmp_path / name)


def test_the_line_of_a_key_is_found_in_a_long_file() -> None:
    lines = ["# a comment"] * 300 + ["[a]"] + [f"k{i} = [\n  {i},\n]" for i in range(200)] + ["last = 1"]
    text = "\n".join(lines)
    assert line_of(text, ("a", "last")) == text.count("\n") + 1
    assert line_of(text, ("a", "k7")) == 302 + 3 * 7
    assert line_of(text, ("a", "no")) is None


def test_roles_are_a_table_or_words_and_each_mistake_in_them_is_told() -> None:
    text = '[auth.roles]\nci = ["submit", "read_own"]\nauditor = ["read_all"]\nnothing = []\n'
    settings = combine(File(FILE, text.encode()), {}, {}).settings
    words = in_words(flat(settings)["auth.roles"])
    assert settings.auth.roles == {"ci": ("submit", "read_own"), "auditor": ("read_all",), "nothing": ()}
    assert load(None, {"JOBWORKER_AUTH__ROLES": words}).settings.auth.roles == settings.auth.roles
    assert combine(File(None), {}, {"auth.roles": words}).settings.auth.roles == settings.auth.roles
    assert load(None, {"JOBWORKER_AUTH__ROLES": "none"}).settings.auth.roles == {}
    for wrong, why in (
        ("admin=submit", "admin is a role of the service's own"),
        ("ci=submit,everything", "should be 'submit', 'read_own'"),
        ("Ci=submit", "should match pattern"),
        ("ci=submit:ci=read_all", "names a role twice"),
    ):
        (told,) = problems("", {"JOBWORKER_AUTH__ROLES": wrong})
        assert told.startswith("JOBWORKER_AUTH__ROLES: auth.roles: "), told
        assert why in told
