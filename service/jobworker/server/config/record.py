"""`<data>/config.json`: what UpdateConfig set, and how many configurations were in force so far. Kept over restarts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobworker.server.config.keys import flat
from jobworker.server.config.model import Settings
from jobworker.server.errors import UNREADABLE
from jobworker.server.store.replace import replace


class DamagedRecordError(Exception):
    """The file is there and is not what this wrote; the message says why."""


@dataclass(frozen=True, slots=True)
class Record:
    """`updates` by key; `digest` tells whether a configuration is the one that was in force last."""

    generation: int = 0
    updates: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    def followed_by(self, settings: Settings, updates: Mapping[str, Any]) -> Record:
        """The record of a configuration that comes into force: a new generation, unless nothing changes."""
        digest = hashlib.sha256(json.dumps(flat(settings), sort_keys=True).encode()).hexdigest()
        if digest == self.digest and updates == self.updates:
            return self
        return Record(self.generation + 1, dict(updates), digest)


def read_record(path: str) -> Record:
    """Reads it; absent is the record of a service that was never started.

    Raises:
        DamagedRecordError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            content = json.loads(file.read())
        record = Record(content["generation"], content["updates"], content["digest"])
    except FileNotFoundError:
        return Record()
    except (OSError, *UNREADABLE) as e:
        raise DamagedRecordError(f"{path}: cannot be read: {e}") from e
    if type(record.generation) is not int or not isinstance(record.updates, dict):
        raise DamagedRecordError(f"{path}: is not the record of a configuration")
    return record


def write_record(path: str, record: Record) -> None:
    """Writes it, durable when this returns.

    Raises:
        OSError: it could not be written, and the old one is still there.
    """
    content = {"generation": record.generation, "updates": dict(record.updates), "digest": record.digest}
    replace(os.fspath(path), json.dumps(content, indent=1).encode() + b"\n")
