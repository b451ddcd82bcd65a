"""What `jobworker config` does: the configuration looked at from outside, the service running or not. Changes nothing.
Each returns the exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from jobworker.server.config.keys import KEYS, flat, in_words
from jobworker.server.config.record import DamagedRecordError, read_record
from jobworker.server.config.sources import ConfigError, File, Loaded, combine, read

EX_DATAERR = 65  # sysexits(3): the input was incorrect


def check(file: Path, environment: Mapping[str, str]) -> int:
    """Says what is wrong with a file, a line each; `-` is standard input."""
    try:
        found = File(Path("<stdin>"), sys.stdin.buffer.read()) if str(file) == "-" else read(file)
        combine(found, environment, {})
    except ConfigError as e:
        return _say(e)
    print(f"{file}: good")
    return 0


def show(file: Path | None, environment: Mapping[str, str], *, as_json: bool) -> int:
    """Prints each key's value and its source, UpdateConfig's as they are kept in the data folder."""
    try:
        found = read(file)
        data = combine(found, environment, {}).settings.paths.data
        loaded = combine(found, environment, read_record(f"{data}/config.json").updates)
    except ConfigError as e:
        return _say(e)
    except DamagedRecordError as e:
        print(f"jobworker: {e}", file=sys.stderr)
        return EX_DATAERR
    print(_json(loaded) if as_json else _table(loaded))
    return 0


def _json(loaded: Loaded) -> str:
    values = flat(loaded.settings)
    return json.dumps(
        {path: {"value": values[path], "source": loaded.sources[path], "live": key.live} for path, key in KEYS.items()},
        indent=2,
    )


def _table(loaded: Loaded) -> str:
    rows = [(path, in_words(value), loaded.sources[path]) for path, value in flat(loaded.settings).items()]
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{path:{wide[0]}}  {value:{wide[1]}}  {source}" for path, value, source in rows)


def _say(error: ConfigError) -> int:
    for problem in error.problems:
        print(f"jobworker: {problem}", file=sys.stderr)
    return EX_DATAERR
