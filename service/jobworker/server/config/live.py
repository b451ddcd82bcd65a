"""The configuration in force. A change is built, validated and swapped whole, or refused whole, and then the old one
stays in force and the reason is told. Runs on the event loop; knows none of the parts that it tells."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobworker.server.config.keys import KEYS, flat
from jobworker.server.config.model import Paths, Settings
from jobworker.server.config.record import DamagedRecordError, Record, read_record, write_record
from jobworker.server.config.sources import (
    UPDATE_PLACE,
    ConfigError,
    File,
    Loaded,
    Problem,
    Source,
    combine,
    read,
    unknown,
)
from jobworker.server.errors import InvalidRequestError, PreconditionError, UnavailableError, Violation, service_trouble
from jobworker.server.telemetry.log import Log

_RETRY_SECONDS = 5.0


class LiveConfig:
    """What is in force, and how it changes: `reload`, when the file may have changed, and `update`."""

    def __init__(
        self,
        *,
        file: Path | None,
        environment: Mapping[str, str],
        kept: Path | None = None,
        clock_ns: Callable[[], int],
        hold: Callable[[Paths], Path] = lambda paths: paths.data,
        shown: Callable[[str], str] = str,
    ) -> None:
        """Reads every source.

        Args:
            file: the configuration file; None is none.
            environment: the process's variables.
            kept: where the content of the last good file is kept while the service runs: a server that is started again
                meanwhile has the configuration that was in force, whatever became of the file.
            clock_ns: Unix nanoseconds.
            hold: opens the folders that the configuration names, once, and says how the data folder is reached.
            shown: a text with the folders' names as they were configured.

        Raises:
            ConfigError: no valid configuration was found.
        """
        self._file = file
        self.environment = environment
        self._kept = kept
        self._clock_ns = clock_ns
        self._shown = shown
        self._log: Log | None = None
        # Told of each change and each refused file: `config.change` or `config.refused`, and what there is to say.
        self.record: Callable[[str, Mapping[str, object]], object] = lambda _what, _fields: None
        self._told: list[Callable[[Settings], object]] = []
        self._error = self._damage = ""
        self.last_error_at: int | None = None
        before = self._read_kept()
        base = read(file) if before is None else before
        self.record_path = f"{hold(combine(base, environment, {}).settings.paths)}/config.json"
        try:
            self._record = read_record(self.record_path)
        except DamagedRecordError as e:
            self._record, self._damage, self.last_error_at = Record(), str(e), clock_ns()
        self._content, self._loaded = self._begin(before)
        self.loaded_at = clock_ns()

    def _begin(self, kept: File | None) -> tuple[File, Loaded]:
        """The configuration to begin with. In the middle of the service's life that is the one that was in force,
        if the newest would not have been taken either."""
        if kept is None:
            newest = read(self._file)
            return newest, combine(newest, self.environment, self._record.updates)
        in_force = combine(kept, self.environment, self._record.updates)
        try:
            newest = self._read_after(kept)
            loaded = combine(newest, self.environment, self._record.updates)
            self._check_live(loaded.settings, in_force.settings)
        except ConfigError as e:
            self._refuse(str(e))
            return kept, in_force
        return newest, loaded

    def _read_after(self, before: File) -> File:
        """The file as it is now. Empty, it would be valid, and is what many a half-done write leaves."""
        newest = read(self._file)
        if before.content.strip() and not newest.content.strip():
            raise ConfigError(Problem(str(self._file), "", "is empty: is it still being written?"))
        return newest

    def _read_kept(self) -> File | None:
        if self._file is None or self._kept is None:
            return None
        try:
            kept = File(self._file, read(self._kept).content)
            combine(kept, self.environment, {})
        except ConfigError:
            return None
        return kept

    def start(self, log: Log) -> None:
        """Counts the configuration that the server starts with; the data folder is ours by now."""
        self._log = log
        if self._error:
            log.error("configuration refused", problem=self._error, in_force="the one before")
        try:
            self._commit(self._loaded, self._record.updates)
        except OSError as e:
            # On a full disk the service is wanted all the same; at the worst a generation is counted twice.
            log.error("the configuration's generation was not recorded", path=self.record_path, problem=str(e))
            self._record = self._record.followed_by(self.settings, self._record.updates)
        self._keep(self._content)

    def tell(self, part: Callable[[Settings], object]) -> None:
        """Has a part told of each configuration that comes into force, and at once of this one."""
        self._told.append(part)
        part(self.settings)

    # -- what is in force

    @property
    def settings(self) -> Settings:
        """The values."""
        return self._loaded.settings

    @property
    def sources(self) -> Mapping[str, Source]:
        """Where each key's value came from."""
        return self._loaded.sources

    @property
    def generation(self) -> int:
        """Counts the configurations that were in force since the service was first started."""
        return self._record.generation

    @property
    def damaged(self) -> bool:
        """What UpdateConfig had set before this start could not be read."""
        return bool(self._damage)

    @property
    def last_error(self) -> str:
        """Why the newest configuration is not in force; empty when it is."""
        return self._shown("; ".join(error for error in (self._error, self._damage) if error))

    # -- changes

    def reload(self) -> None:
        """Takes the file as it is now, or leaves all as it was and says why in `last_error`."""
        try:
            content = self._read_after(self._content)
            if content.content == self._content.content and not self._error:
                return
            loaded = combine(content, self.environment, self._record.updates)
            self._check_live(loaded.settings, self.settings)
            self._commit(loaded, self._record.updates)
        except ConfigError as e:
            self._refuse(str(e))
            return
        except OSError as e:
            self._refuse(f"{self.record_path}: cannot be written: {e.strerror}")
            return
        self._content = content
        self._keep(content)
        self._error = ""

    def preview(self, values: Mapping[str, Any]) -> Settings:
        """What would be in force if `update` set these values; changes nothing.

        Raises:
            InvalidRequestError: there is no such key, its value is not valid, or it contradicts another.
        """
        return self._combined({**self._record.updates, **values}).settings

    def update(self, values: Mapping[str, Any], unset: Collection[str], *, generation: int) -> None:
        """Sets keys above file and environment, and gives others back to these. Durable when this returns.

        Args:
            values: by key; one that needs a restart may be named with the value that it has.
            unset: keys.
            generation: the one that the change was made for; 0 is any.

        Raises:
            InvalidRequestError: there is no such key, its value is not valid, or it contradicts another.
            PreconditionError: a key needs a restart; another generation is in force.
            ExhaustedError, UnavailableError: the change cannot be written.
        """
        if generation not in (0, self.generation):
            raise PreconditionError(
                f"the configuration in force is generation {self.generation}, and the change was made for {generation}"
            )
        updates = {key: value for key, value in self._record.updates.items() if key not in unset}
        violations = [Violation(key, unknown(key)) for key in unset if key not in KEYS]
        wanted = self._combined({**updates, **values}, violations)
        if violations:
            raise InvalidRequestError(*violations)
        if changed := self._restart_keys(wanted.settings, self.settings):
            raise PreconditionError("; ".join(f"{key} needs a restart" for key in changed))
        valid = flat(wanted.settings)
        updates.update({key: valid[key] for key in values if KEYS[key].live})
        loaded = combine(self._content, self.environment, updates)
        try:
            self._commit(loaded, updates)
        except OSError as e:
            unwritten = UnavailableError("the change cannot be written", retry_after_seconds=_RETRY_SECONDS)
            raise (service_trouble(e) or unwritten) from e
        self._damage = ""  # whoever steers the service has said anew what it should be

    def _combined(self, updates: Mapping[str, Any], violations: Sequence[Violation] = ()) -> Loaded:
        try:
            return combine(self._content, self.environment, updates)
        except ConfigError as e:
            raise InvalidRequestError(*violations, *(Violation(p.key, _at(p)) for p in e.problems)) from None

    def _check_live(self, wanted: Settings, current: Settings) -> None:
        if changed := self._restart_keys(wanted, current):
            raise ConfigError(*(Problem(str(self._file), key, "a change needs a restart") for key in changed))

    @staticmethod
    def _restart_keys(wanted: Settings, current: Settings) -> list[str]:
        new, old = flat(wanted), flat(current)
        return [path for path, key in KEYS.items() if not key.live and new[path] != old[path]]

    def _commit(self, loaded: Loaded, updates: Mapping[str, Any]) -> None:
        """Puts a valid configuration in force. Written first: what callers were told holds after a crash."""
        record = self._record.followed_by(loaded.settings, updates)
        if record is not self._record:
            # On the loop: a few hundred bytes, once in a while, and no second change may come in between.
            write_record(self.record_path, record)
        changes = _changes(self.settings, loaded.settings)
        self._record, self._loaded = record, loaded
        self.loaded_at = self._clock_ns()
        for part in self._told:
            part(loaded.settings)
        if self._log is not None and changes:
            words = {key.replace(".", "_"): value for key, value in changes.items()}
            self._log.info("configuration changed", generation=record.generation, **words)
            self.record("config.change", {"generation": record.generation, "changes": changes})

    def _refuse(self, why: str) -> None:
        if self._log is not None and why != self._error:
            self._log.error("configuration refused", problem=why, in_force="the one before")
            self.record("config.refused", {"generation": self.generation})
        self._error, self.last_error_at = why, self._clock_ns()

    def _keep(self, content: File) -> None:
        """For the next server of this service. Without it that one reads the file itself, so a failure is none here."""
        if self._kept is None or content.path is None:
            return
        new = f"{self._kept}.new"
        with contextlib.suppress(OSError):
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(content.content)
            os.rename(new, self._kept)


def _changes(old: Settings, new: Settings) -> dict[str, Any]:
    before, after = flat(old), flat(new)
    return {key: after[key] for key in KEYS if before[key] != after[key]}


def _at(problem: Problem) -> str:
    """What is wrong; and where, when the fault lies with a value that the request did not give."""
    return problem.text if problem.place == UPDATE_PLACE else f"{problem.text} ({problem.place})"
