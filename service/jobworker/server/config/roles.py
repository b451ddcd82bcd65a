"""The value of `auth.roles`: names, each with its rights."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, StringConstraints

from jobpki.users import ROLE_PATTERN
from jobworker.server.rights import ROLES, Right


def _from_words(value: object) -> object:
    """The environment has no tables: there they are written as `ci=submit,read_own:auditor=read_all`."""
    if not isinstance(value, str):
        return value
    if value.lower() == "none":
        return {}
    pairs = [pair.partition("=") for pair in value.split(":") if pair]
    if len({name for name, _, _ in pairs}) < len(pairs):
        raise ValueError("names a role twice")
    return {name: rights.split(",") if rights else [] for name, _, rights in pairs}


def _not_ours(value: dict[str, tuple[Right, ...]]) -> dict[str, tuple[Right, ...]]:
    for name in value:
        if name in ROLES:
            raise ValueError(f"{name} is a role of the service's own, with rights that stay")
    return value


Roles = Annotated[
    dict[Annotated[str, StringConstraints(pattern=ROLE_PATTERN)], tuple[Right, ...]],
    BeforeValidator(_from_words),
    AfterValidator(_not_ours),
]
