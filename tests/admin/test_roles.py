"""Roles of the configuration, on a service that runs: whose batches they are for, and calls that outlast them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import grpc

from jobpki.directory import issue
from jobpki.users import Role
from jobworker.v1 import admin_pb2, admin_pb2_grpc, query_pb2
from tests.harness.admin import Admin
from tests.harness.pki import LOW_COST
from tests.harness.refusal import refusal, refused
from tests.harness.service import Service
from tests.harness.wait import until


def test_a_role_is_in_force_while_the_service_runs(
    configured: Service, admin: Admin, write: Callable[[str], object]
) -> None:
    made = issue(configured.pki, "eve", role=Role.parse("auditor"), now=datetime.now(UTC), cost=LOW_COST)
    configured.passwords |= made.passwords
    alice, eve = configured.api("alice"), configured.api("eve")
    batch = alice.submit("echo begun; exec sleep 600")
    assert refused(lambda: eve.get(batch)).name == "PERMISSION_DENIED"

    def answer() -> str:
        try:
            eve.get(batch)
        except grpc.RpcError as error:
            return refusal(error).name
        return "OK"

    write('[auth.roles]\nauditor = ["read_all"]\n')
    until(lambda: answer() == "OK", "the role is read")
    assert refused(lambda: eve.cancel(batch)).name == "PERMISSION_DENIED"
    assert refused(lambda: eve.submit("true")).name == "PERMISSION_DENIED"
    listed = eve.query.ListBatches(query_pb2.ListBatchesRequest(), **eve.call()).batches
    assert [found.correlation_id for found in listed] == [batch]
    follow = eve.follow(batch)
    assert next(follow).data == b"begun\n"
    write('[auth.roles]\nauditor = ["read_own"]\n')
    ended = refused(lambda: follow)  # it was of a right that the role has no more
    assert (ended.name, ended.reason) == ("PERMISSION_DENIED", "ROLE_INSUFFICIENT")
    assert answer() == "NOT_FOUND"
    write("[auth.roles]\nadmin = []\n")
    until(lambda: admin.status().config.last_error, "it is refused")
    assert "admin is a role of the service's own" in admin.status().config.last_error
    assert alice.cancel(batch).counts.cancelled == 1


def test_who_operates_the_service_cannot_give_rights(configured: Service, write: Callable[[str], None]) -> None:
    made = issue(configured.pki, "eve", role=Role.parse("auditor"), now=datetime.now(UTC), cost=LOW_COST)
    configured.passwords |= made.passwords
    write('[auth.roles]\nauditor = ["operate_service", "read_service"]\n')
    eve = admin_pb2_grpc.AdminServiceStub((api := configured.api("eve")).channel)

    def update(**values: object) -> admin_pb2.UpdateConfigRequest:
        request = admin_pb2.UpdateConfigRequest()
        request.values.update(values)
        return request

    def changed() -> bool:
        try:
            return bool(eve.UpdateConfig(update(jobs={"running": 5}), **api.call()).generation)
        except grpc.RpcError:
            return False

    until(changed, "the role is read")
    for values in ({"auth": {"roles": {"auditor": ["read_all"]}}}, {"auth": {"token_lifetime_seconds": 60}}):
        found = refused(lambda values=values: eve.UpdateConfig(update(**values), **api.call()))  # type: ignore[misc]
        assert (found.name, found.reason) == ("PERMISSION_DENIED", "ROLE_INSUFFICIENT")
    mask = admin_pb2.UpdateConfigRequest(update_mask={"paths": ["auth.roles"]})
    assert refused(lambda: eve.UpdateConfig(mask, **api.call())).name == "PERMISSION_DENIED"
    write('[auth.roles]\nauditor = ["operate_service", "administer_users"]\n')

    def may() -> bool:
        try:
            return bool(eve.UpdateConfig(update(auth={"token_lifetime_seconds": 60}), **api.call()).generation)
        except grpc.RpcError:
            return False

    until(may, "it may")
