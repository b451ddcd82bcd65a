"""The keys of the configuration as a flat table: `jobs.running`, its type, whether it is live. From the model alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jobworker.server.config.model import Settings

ENVIRONMENT_PREFIX = "JOBWORKER_"
_SEPARATOR = "__"


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `default` is as Python has it, `default_words` as people read it."""

    path: str
    live: bool
    description: str
    default: Any
    default_words: str

    @property
    def variable(self) -> str:
        """The environment variable that sets it: JOBWORKER_JOBS__RUNNING."""
        return ENVIRONMENT_PREFIX + self.path.upper().replace(".", _SEPARATOR)


def _keys() -> Iterator[Key]:
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            for inner, inner_field in section.model_fields.items():
                yield _key(f"{name}.{inner}", inner_field)
        else:
            yield _key(name, field)


def _key(path: str, field: FieldInfo) -> Key:
    extra = field.json_schema_extra
    assert isinstance(extra, dict), path  # noqa: S101  (each key says whether it is live; a test holds it)
    default = field.get_default(call_default_factory=True)
    words = extra.get("default", in_words(default))
    return Key(path, bool(extra["live"]), field.description or "", default, str(words))


def in_words(value: object) -> str:
    """A value as one writes it into the file; `none` where there is none."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):  # auth.roles, as the environment has it
        return ":".join(f"{name}={','.join(items)}" for name, items in value.items()) or "none"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


KEYS: Mapping[str, Key] = {key.path: key for key in _keys()}
SECTIONS: Mapping[str, str] = {
    name: (field.annotation.__doc__ or "").strip()
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


def flat(settings: Settings) -> dict[str, Any]:
    """Each key's value, as JSON has it: paths are text."""
    values = settings.model_dump(mode="json")
    return {path: _get(values, path) for path in KEYS}


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by path, nested as in the file."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *sections, name = path.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return tree


def choices(path: str) -> tuple[str, ...]:
    """The values of a key that has a fixed set of them."""
    *sections, name = path.split(".")
    fields = Settings.model_fields
    for section in sections:
        fields = getattr(fields[section].annotation, "model_fields", {})
    return tuple(a for a in get_args(fields[name].annotation) if isinstance(a, str))


def _get(values: dict[str, Any], path: str) -> Any:
    found: Any = values
    for part in path.split("."):
        found = found[part]
    return found
