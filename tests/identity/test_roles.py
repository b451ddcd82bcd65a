"""Roles of the configuration: what they let their users do, and what those of an unknown one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import pytest

from jobpki.directory import issue
from jobpki.users import Role
from jobworker.server.errors import PermissionDeniedError
from jobworker.server.identity.gate import Identity
from jobworker.server.identity.who import Principal
from jobworker.server.rights import ROLES, Right
from tests.harness.pki import LOW_COST, Pki
from tests.identity.conftest import start

SUBMIT = "/jobworker.v1.JobScheduleService/ExecuteJob"
CANCEL = "/jobworker.v1.JobScheduleService/CancelBatch"
GET = "/jobworker.v1.JobQueryService/GetBatch"
STATUS = "/jobworker.v1.AdminService/GetStatus"
STOP = "/jobworker.v1.AdminService/StopService"
UNKNOWN = "the user rob has the role robot, which auth.roles does not have, and so no rights"


class Caller:
    """A user with the role `robot`."""

    def __init__(self, pki: Pki, identity: Identity, token: str) -> None:
        self._pki = pki
        self._identity = identity
        self._token = token

    def calls(self, method: str) -> Principal:
        return self._identity.authenticate(
            method=method, certificate_pem=self._pki.certificate_pem("rob"), authorization=f"Bearer {self._token}"
        )

    def may(self) -> set[str]:
        """Which of the methods."""
        found = set()
        for method in (SUBMIT, CANCEL, GET, STATUS, STOP):
            try:
                self.calls(method)
            except PermissionDeniedError:
                continue
            found.add(method)
        return found


@pytest.fixture
def identity(pki: Pki, problems: list[str]) -> Iterator[Identity]:
    made_user = issue(pki.root, "rob", role=Role.parse("robot"), now=datetime.now(UTC), cost=LOW_COST)
    pki.passwords.update(made_user.passwords)
    made = start(pki, problems)
    yield made
    made.close()


@pytest.fixture
async def caller(pki: Pki, identity: Identity) -> Caller:
    issued = await identity.login(
        certificate_pem=pki.certificate_pem("rob"), username="rob", password=pki.passwords["rob"]
    )
    return Caller(pki, identity, issued.access_token)


def give(identity: Identity, roles: Mapping[str, Sequence[Right]]) -> None:
    identity.configure(token_lifetime_seconds=900, roles=roles)


def test_the_three_include_each_other_and_an_administrator_has_every_right() -> None:
    assert ROLES["viewer"] < ROLES["operator"] < ROLES["admin"] == set(Right)


async def test_a_role_is_its_rights_from_the_next_call_on(identity: Identity, caller: Caller) -> None:
    for rights, methods in (
        ([], set()),
        ([Right.SUBMIT], {SUBMIT}),
        ([Right.READ_OWN, Right.CANCEL_OWN], {GET, CANCEL}),
        ([Right.READ_ALL], {GET}),
        ([Right.READ_SERVICE], {STATUS}),
        ([Right.OPERATE_SERVICE], {STOP}),
        (list(Right), {SUBMIT, GET, CANCEL, STATUS, STOP}),
    ):
        give(identity, {"robot": rights})
        assert caller.may() == methods
    give(identity, {"robot": [Right.READ_ALL]})
    with pytest.raises(PermissionDeniedError, match="takes the right cancel_all or cancel_own; rob is robot"):
        caller.calls(CANCEL)


async def test_who_sees_everyones_batches_cancels_only_its_own_unless_that_is_a_right_too(
    identity: Identity, caller: Caller
) -> None:
    give(identity, {"robot": [Right.READ_ALL, Right.CANCEL_OWN]})
    assert caller.calls(GET).sees_all
    assert not caller.calls(CANCEL).sees_all
    give(identity, {"robot": [Right.READ_OWN, Right.CANCEL_ALL]})
    assert not caller.calls(GET).sees_all
    assert caller.calls(CANCEL).sees_all


async def test_a_role_that_there_is_not_gives_no_rights_and_is_told_once(
    pki: Pki, identity: Identity, caller: Caller, problems: list[str]
) -> None:
    assert caller.may() == set()
    assert caller.calls("/jobworker.v1.AuthService/WhoAmI").rights == frozenset()
    assert problems == list(identity.problems_of_roles()) == [UNKNOWN]
    give(identity, {"robot": [Right.SUBMIT]})
    assert list(identity.problems_of_roles()) == []
    give(identity, {"another": [Right.SUBMIT]})
    assert list(identity.problems_of_roles()) == [UNKNOWN]
    assert problems == [UNKNOWN] * 2
    issue(pki.root, "rob", role=Role.VIEWER, now=datetime.now(UTC), cost=LOW_COST)
    assert caller.may() == {GET}
    assert list(identity.problems_of_roles()) == []
