"""Where values come from, later ones winning: defaults, the TOML file, the environment, UpdateConfig. Puts them
together, and says of each problem which key it is and where it was said. Reads nothing but the file it is told."""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jobworker.server.config.contradictions import contradictions
from jobworker.server.config.keys import ENVIRONMENT_PREFIX, KEYS, SECTIONS, nested
from jobworker.server.config.model import Settings
from jobworker.server.config.places import line_of

UPDATE_PLACE = "UpdateConfig"  # of a value that it has set, now or before
_FILE_BYTES_MOST = 1 << 20
_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")  # how tomllib ends its messages


class Source(StrEnum):
    """Where a value came from."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    UPDATE = "update"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong: at `place` (`jobworker.toml:7`, a variable, UpdateConfig), with a key, or (empty) the whole."""

    place: str
    key: str
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place, self.key, self.text) if part)


class ConfigError(Exception):
    """The configuration is not valid; the message names files, lines and keys."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class File:
    """A configuration file as it was read; no file is path None."""

    path: Path | None
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that is valid, and where each key's value came from."""

    settings: Settings
    sources: Mapping[str, Source]


def read(path: Path | None) -> File:
    """Reads the file; None is not a file.

    Raises:
        ConfigError: it is not there, or cannot be a configuration.
    """
    if path is None:
        return File(None)
    try:
        # Not to be held up by a pipe that nobody writes to.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ConfigError(Problem(str(path), "", "is not a regular file"))
            content = file.read(_FILE_BYTES_MOST + 1)
    except FileNotFoundError:
        raise ConfigError(Problem(str(path), "", "there is no such file")) from None
    except OSError as e:
        raise ConfigError(Problem(str(path), "", f"cannot be read: {e.strerror}")) from e
    if len(content) > _FILE_BYTES_MOST:
        raise ConfigError(Problem(str(path), "", "is larger than 1 MiB, which no configuration is"))
    return File(path, content)


def load(path: Path | None, environment: Mapping[str, str]) -> Loaded:
    """What file and environment say, without UpdateConfig's.

    Raises:
        ConfigError: with every problem.
    """
    return combine(read(path), environment, {})


def combine(file: File, environment: Mapping[str, str], updates: Mapping[str, Any]) -> Loaded:
    """Puts the sources together; `updates` are UpdateConfig's values by key.

    Raises:
        ConfigError: with every problem.
    """
    text, table = _parse(file)
    given: dict[str, tuple[Any, Source]] = {}
    unknowns: list[Problem] = []

    def place(key: str, source: Source) -> str:
        if source is Source.FILE:
            line = line_of(text, tuple(key.split(".")))
            return str(file.path) if line is None else f"{file.path}:{line}"
        return _variable(key, environment) if source is Source.ENVIRONMENT else UPDATE_PLACE

    said = ((Source.FILE, flatten(table)), (Source.ENVIRONMENT, _of(environment)), (Source.UPDATE, updates.items()))
    for source, values in said:
        for key, value in values:
            if key in KEYS:
                given[key] = (value, source)
            else:
                unknowns.append(Problem(place(key, source), key, unknown(key)))
    try:
        settings = Settings.model_validate(nested({key: value for key, (value, _) in given.items()}))
    except ValidationError as e:
        wrong = [(_key_of(error["loc"]), _words(error["type"], error["msg"])) for error in e.errors()]
    else:
        wrong = list(contradictions(settings))
    if problems := unknowns + [Problem(place(key, given[key][1]), key, words) for key, words in wrong]:
        raise ConfigError(*problems)
    return Loaded(settings, {key: given[key][1] if key in given else Source.DEFAULT for key in KEYS})


def flatten(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys with their values, of values nested as in the file. A section is entered, whatever it is called."""
    for name, value in table.items():
        if name in SECTIONS and isinstance(value, dict):
            for inner, inner_value in value.items():
                # A quoted key with a dot in it is not the key of that path.
                yield (f"{name}.{inner}" if "." not in inner else f'{name}."{inner}"'), inner_value
        else:
            yield (name if "." not in name else f'"{name}"'), value


def unknown(key: str) -> str:
    """What to say of a key that there is not."""
    if key in SECTIONS:
        return f"is a section, [{key}], and takes no value"
    close = difflib.get_close_matches(key, KEYS, 1, 0.75)
    return "there is no such key" + (f"; is it {close[0]}?" if close else "")


def _parse(file: File) -> tuple[str, dict[str, Any]]:
    try:
        text = file.content.decode()
    except UnicodeDecodeError as e:
        line = file.content.count(b"\n", 0, e.start) + 1
        raise ConfigError(Problem(f"{file.path}:{line}", "", "is not UTF-8, which TOML is")) from e
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        message = str(e)
        found = _AT.search(message)
        place = f"{file.path}:{found[1]}:{found[2]}" if found and found[1] else f"{file.path}:{text.count(chr(10)) + 1}"
        raise ConfigError(Problem(place, "", f"is not TOML: {_AT.sub('', message)}")) from e
    except RecursionError as e:
        raise ConfigError(Problem(str(file.path), "", "is nested too deeply")) from e


def _of(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The variables that are ours. Others may begin like ours: Kubernetes sets JOBWORKER_SERVICE_HOST for a service of
    that name. A section's keys, with `__`, are nobody else's."""
    for name, value in environment.items():
        if name.upper().startswith(ENVIRONMENT_PREFIX):
            key = name[len(ENVIRONMENT_PREFIX) :].lower().replace("__", ".")
            if key in KEYS or "." in key:
                yield key, value


def _variable(key: str, environment: Mapping[str, str]) -> str:
    wanted = ENVIRONMENT_PREFIX + key.upper().replace(".", "__")
    return next((name for name in environment if name.upper() == wanted), wanted)


def _key_of(location: tuple[int | str, ...]) -> str:
    """The key that pydantic's location lies in; behind it come parts of the value."""
    path = [str(part) for part in location]
    return next((key for n in (1, 2) if (key := ".".join(path[:n])) in KEYS), ".".join(path))


def _words(kind: str, message: str) -> str:
    if kind == "path_type":  # pydantic names a class of Python's there
        return "should be a path"
    message = message.removeprefix("Value error, ")
    return message[0].lower() + message[1:]
