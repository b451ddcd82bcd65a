"""What callers may be allowed to do, and the roles that are always there: sets of such rights. More roles are in the
configuration (`auth.roles`); which right a method takes is in identity/roles.py."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Right(StrEnum):
    """One of them."""

    SUBMIT = "submit"  # hand in batches, of one's own
    READ_OWN = "read_own"  # see one's own batches and their logs
    CANCEL_OWN = "cancel_own"
    READ_ALL = "read_all"  # everyone's
    CANCEL_ALL = "cancel_all"
    READ_SERVICE = "read_service"  # status, configuration, what would be removed
    OPERATE_SERVICE = "operate_service"  # stop, start, change the configuration but for `auth`
    ADMINISTER_USERS = "administer_users"  # with the one above: change what users may do, `auth.*`


ROLES: Mapping[str, frozenset[Right]] = MappingProxyType(
    {
        "viewer": frozenset({Right.READ_OWN}),
        "operator": frozenset({Right.SUBMIT, Right.READ_OWN, Right.CANCEL_OWN}),
        "admin": frozenset(Right),
    }
)
