"""The types that keys of the configuration have, and how each may be written. Knows no keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

# How a change of a key takes effect: at once, or when the whole service (`jobworker run`) is started again.
LIVE: dict[str, Any] = {"live": True}
RESTART: dict[str, Any] = {"live": False}

_YEAR_SECONDS = 366 * 86400  # what one is told to wait longer for is a mistake
MOST = 1 << 62


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("is true or false, and should be a number")  # noqa: TRY004 - pydantic's way
    return value


def _none(value: object) -> object:
    """TOML and the environment have no null."""
    return None if isinstance(value, str) and value.lower() == "none" else value


def _listed(value: object) -> object:
    """The environment has no lists: there they are written as in PATH."""
    return [part for part in value.split(":") if part] if isinstance(value, str) else value


def _absolute(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    for path in paths:
        if not path.is_absolute():
            raise ValueError(f"{path} is not an absolute path")
    return paths


Int = Annotated[int, BeforeValidator(_no_bool)]
Float = Annotated[float, BeforeValidator(_no_bool)]
Port = Annotated[Int, Field(ge=0, le=65535)]
Count = Annotated[Int, Field(ge=1, le=1_000_000_000)]
Bytes = Annotated[Int, Field(ge=1, le=MOST)]
Seconds = Annotated[Float, Field(gt=0, le=_YEAR_SECONDS, allow_inf_nan=False)]
PauseSeconds = Annotated[Float, Field(ge=0, le=_YEAR_SECONDS, allow_inf_nan=False)]
OrNone = BeforeValidator(_none)
BytesOrNone = Annotated[Bytes | None, OrNone]
CountOrNone = Annotated[Count | None, OrNone]
PathList = Annotated[tuple[Path, ...], BeforeValidator(_listed), AfterValidator(_absolute)]


class Section(BaseModel):
    """A table of the file. It has no keys but its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)
