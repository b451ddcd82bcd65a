"""Every field of every request, with values that nobody expects: each answer has a documented status, and a refusal
names the field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from jobworker.v1 import admin_pb2, auth_pb2, query_pb2, schedule_pb2
from tests.harness.refusal import refusal, refused
from tests.harness.rest import rest
from tests.harness.service import Api, Service, running

FILES = (auth_pb2, schedule_pb2, query_pb2, admin_pb2, health_pb2, reflection_pb2, channelz_pb2)
METHODS = [m for f in FILES for s in f.DESCRIPTOR.services_by_name.values() for m in s.methods]
TEXTS = ["", " ", ".", "..", "../..", "/", "a/b", "/etc/passwd", "\0", "a\0b", "x" * 256, "x" * 5000, "é" * 128,
         "x" * 100_000, "\U0001f4a5", "\u202e", "\ufeff", "\uffff", "\u2028", "\n", "\x1b[2J", "%00", "%2e%2e%2f", "*",
         "'", '"', "\\", "null", "-1", "İ", "\u212a" * 36, "jobworker.v1", "alice", "admin/..", "~", "{}", "1" * 400,
         "0190000000007000800000000000000İ", "ffffffff-ffff-7fff-bfff-ffffffffffff"]  # fmt: skip
NUMBERS = {
    Field.CPPTYPE_INT32: [-1, -(2**31), 2**31 - 1],
    Field.CPPTYPE_INT64: [-1, -(2**63), 2**63 - 1, 10**12],
    Field.CPPTYPE_UINT32: [1, 2**31, 2**32 - 1],
    Field.CPPTYPE_UINT64: [1, 2**53 + 1, 2**63, 2**64 - 1],
    Field.CPPTYPE_DOUBLE: [float("nan"), float("inf"), -0.0, 1e308, 0.5],
    Field.CPPTYPE_ENUM: [1, 99, -1, 2**31 - 1],
    Field.CPPTYPE_BOOL: [True],
}
DOCUMENTED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED",
              "FAILED_PRECONDITION", "ABORTED", "ALREADY_EXISTS"}  # fmt: skip
DEPTH = 4


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("odd") / "service") as service:
        yield service


@pytest.fixture(scope="module")
def admin(own: Service) -> Api:
    return own.api("admin")


@pytest.fixture(scope="module")
def finished(admin: Api) -> str:
    batch = admin.submit("echo hello")
    admin.wait(batch)
    return batch


def odd(message: Message, path: str = "", depth: int = 0) -> Iterator[str]:
    """Gives a message, in place, one odd value after another, and tells where; it is as before in between."""
    for field in message.DESCRIPTOR.fields:
        here = f"{path}{field.name}"
        before = type(message)()
        before.CopyFrom(message)
        is_map = field.is_repeated and field.message_type is not None and field.message_type.GetOptions().map_entry
        if is_map:
            values = field.message_type.fields_by_name["value"]
            target = getattr(message, field.name)
            for text in TEXTS:
                if values.message_type is None:
                    target[text] = text
                else:
                    target[text].string_value = text
                yield here
                message.CopyFrom(before)
        elif field.message_type is not None:
            if depth < DEPTH:
                nested = getattr(message, field.name).add() if field.is_repeated else getattr(message, field.name)
                nested.SetInParent()
                yield here
                yield from odd(nested, f"{here}.", depth + 1)
                message.CopyFrom(before)
        else:
            for value in values_of(field):
                if field.is_repeated:
                    getattr(message, field.name).extend([value, value])
                else:
                    setattr(message, field.name, value)
                yield here
                message.CopyFrom(before)


def values_of(field: Any) -> list[Any]:
    if field.cpp_type == Field.CPPTYPE_STRING:
        return [text.encode() for text in TEXTS] if field.type == Field.TYPE_BYTES else TEXTS
    return NUMBERS[field.cpp_type]


def answer(api: Api, method: MethodDescriptor, message: Message) -> None:
    """Makes a call, and reads what comes until the end or, of what has none, the first answer."""
    name = f"/{method.containing_service.full_name}/{method.name}"
    data = message.SerializeToString()
    if method.client_streaming:
        call = api.channel.stream_stream(name)(iter([data]), timeout=60, metadata=api.metadata)
    else:
        call = api.channel.unary_stream(name)(data, timeout=60, metadata=api.metadata)
    for _ in call:
        if method.name == "Watch":
            call.cancel()
            return


@pytest.mark.parametrize("method", METHODS, ids=lambda method: str(method.full_name))
def test_any_value_in_any_field_has_a_documented_answer(
    admin: Api, own: Service, finished: str, method: MethodDescriptor
) -> None:
    message = GetMessageClass(method.input_type)()
    if "correlation_id" in method.input_type.fields_by_name:
        message.correlation_id = finished  # type: ignore[attr-defined]
    if "command" in method.input_type.fields_by_name:
        message.command = "true"  # type: ignore[attr-defined]
    names = {field.name for field in method.input_type.fields}
    for path in ("", *odd(message)):
        try:
            answer(admin, method, message)
        except grpc.RpcError as error:
            found = refusal(error)
            assert found.name in DOCUMENTED, (path, message, found)
            if found.name == "INVALID_ARGUMENT":
                assert found.fields, (path, message)
                roots = {field.partition(".")[0].partition("[")[0] for field in found.fields}
                assert roots <= names | {"request", "jobs"} or method.name == "UpdateConfig", (path, found)
        if method.name == "Logout":
            admin.login("admin", own.passwords["admin"])
        if method.name == "StopService":
            answer(admin, METHODS_BY_NAME["StartService"], admin_pb2.StartServiceRequest())
    assert "rpc broke" not in own.output()


METHODS_BY_NAME = {method.name: method for method in METHODS}


def test_a_user_who_can_be_none_is_refused_and_one_who_is_none_has_no_batches(own: Service, admin: Api) -> None:
    batch = own.api("alice").submit("true")

    def listed(user: str) -> list[str]:
        request = query_pb2.ListBatchesRequest(user=user)
        return [b.correlation_id for b in admin.query.ListBatches(request, **admin.call()).batches]

    for user in (".", "..", "../alice", "/", "a/b", "a\0b", "\0", "x" * 256, "é" * 128, "x" * 100_000):
        found = refused(lambda user=user: listed(user))
        assert (found.name, found.fields) == ("INVALID_ARGUMENT", ["user"]), user
    for user in ("nobody", "Alice", "%00", "\u202e", "x" * 255, "~", " "):
        assert listed(user) == []
    assert listed("alice") == [batch]
    assert listed("")[0] == batch


def test_the_health_of_every_service_is_told_at_once(own: Service) -> None:
    api = own.api("vic", login=False)
    call = api.channel.unary_unary(
        "/grpc.health.v1.Health/List", response_deserializer=health_pb2.HealthListResponse.FromString
    )
    told = call(b"", timeout=60, wait_for_ready=True).statuses
    assert {"", "jobworker.v1.JobScheduleService", "jobworker.v1.AuthService"} <= set(told)
    assert {one.status for one in told.values()} == {health_pb2.HealthCheckResponse.SERVING}


def test_odd_values_over_rest_have_documented_answers(own: Service, finished: str) -> None:
    user = rest(own, "admin")
    for text in TEXTS:
        if len(text) > 5000:
            continue
        value = quote(text, safe="")
        for path in (
            f"/v1/batches?user={value}",
            f"/v1/batches?page_token={value}",
            f"/v1/batches?{value}={value}",
            f"/v1/batches/{value}",
            f"/v1/batches/{value}:wait",
            f"/v1/batches/{finished}/jobs/{value}/logs?no_follow=true",
            f"/v1/job/search?correlation_id={value}",
        ):
            status = user("GET", path).status
            assert status < 500 or status == 501, (path, status)
    assert user("GET", "/v1/batches?user=a%2Fb").violations == ["user"]
    assert "broke" not in own.output()


def test_a_login_that_is_larger_than_any_is_refused_by_its_size(own: Service) -> None:
    api = own.api("bob", login=False)
    for size, name in ((1024, "UNAUTHENTICATED"), (1025, "UNAUTHENTICATED"), (8000, "UNAUTHENTICATED"),
                       (8193, "INVALID_ARGUMENT"), (3_000_000, "INVALID_ARGUMENT")):  # fmt: skip
        request = auth_pb2.LoginRequest(username="bob", password="x" * size)
        found = refused(lambda request=request: api.auth.Login(request, timeout=60, wait_for_ready=True))
        assert (found.name, found.fields) == (name, ["request"] if name == "INVALID_ARGUMENT" else [])
    request = auth_pb2.LoginRequest(username="b" * 9000, password=own.passwords["bob"])
    assert refused(lambda: api.auth.Login(request, timeout=60)).fields == ["request"]
    api.login("bob", own.passwords["bob"])
