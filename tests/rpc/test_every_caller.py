"""Every method, called by everyone who may come: the exact answer, over gRPC and, where it has a route, over REST."""

from __future__ import annotations

import http.client
import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from jobpki import directory, keys
from jobpki.accounts import disable, remove, set_password
from jobpki.layout import Layout
from jobpki.revocation import REASONS
from jobpki.revoking import revoke, revoke_tokens
from jobpki.users import Role, read_users, write_users
from jobworker.client.ids import new_correlation_id
from jobworker.v1 import admin_pb2, auth_pb2, job_pb2, query_pb2, schedule_pb2
from tests.harness.forge import forge
from tests.harness.pki import LOW_COST, client_context, make_pki
from tests.harness.refusal import refusal
from tests.harness.rest import Rest, bindings
from tests.harness.service import CALL_SECONDS, LOCAL, Service, running
from tests.harness.tokens import Tokens, take_logouts_back
from tests.harness.wait import until
from tests.rpc.conftest import Served

# A status, and the reason of its ErrorInfo.
Answer = tuple[str, str]
OK = ("OK", "")
INVALID = ("INVALID_ARGUMENT", "")
MISSING = ("NOT_FOUND", "")
DENIED = ("PERMISSION_DENIED", "ROLE_INSUFFICIENT")
NO_HANDSHAKE = ("UNAVAILABLE", "")
REVOKED = "R" * 22  # the id of a token
NEVER = new_correlation_id(time.time_ns() // 1_000_000)  # of a batch that there has not been
HTTP = {200: "OK", 400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}

# What a method takes: a certificate, also that of the health check; one of a user; a token; or a right, the same for
# one's own batches and for everyone's.
HEALTH_CHECK, CERTIFICATE, TOKEN = "health check", "certificate", "token"
USER = frozenset({HEALTH_CHECK, CERTIFICATE, TOKEN})
VIEWER = USER | {"read"}
OPERATOR = VIEWER | {"submit", "cancel"}
ADMIN = OPERATOR | {"read_service", "operate_service"}


@dataclass(frozen=True)
class Row:
    """A method: what it takes, a request that changes nothing, and how that is answered to who may call it."""

    takes: str
    request: Message | None
    answer: Answer = OK


# Another's name: refused whatever the password is, and not counted as a guess.
LOGIN = auth_pb2.LoginRequest(username="nobody", password="any")
OURS = {
    "AuthService/WhoAmI": Row(TOKEN, auth_pb2.WhoAmIRequest()),
    "AuthService/Logout": Row(TOKEN, auth_pb2.LogoutRequest()),
    "AuthService/Login": Row(CERTIFICATE, LOGIN, ("UNAUTHENTICATED", "LOGIN_FAILED")),
    "JobScheduleService/ExecuteJob": Row("submit", schedule_pb2.JobRequest(), INVALID),
    "JobScheduleService/ExecuteJobs": Row("submit", None, INVALID),
    "JobScheduleService/CancelBatch": Row("cancel", schedule_pb2.CancelBatchRequest(correlation_id=NEVER), MISSING),
    "JobQueryService/SearchJob": Row("read", query_pb2.SearchJobRequest(correlation_id=NEVER), MISSING),
    "JobQueryService/StreamLogs": Row(
        "read", query_pb2.StreamLogsRequest(correlation_id=NEVER, job_index=[0]), MISSING
    ),
    "JobQueryService/GetBatch": Row("read", query_pb2.GetBatchRequest(correlation_id=NEVER), MISSING),
    "JobQueryService/WaitBatch": Row("read", query_pb2.WaitBatchRequest(correlation_id=NEVER), MISSING),
    "JobQueryService/ListBatches": Row("read", query_pb2.ListBatchesRequest()),
    "AdminService/GetStatus": Row("read_service", admin_pb2.GetStatusRequest()),
    "AdminService/StartService": Row("operate_service", admin_pb2.StartServiceRequest()),
    "AdminService/StopService": Row(
        "operate_service", admin_pb2.StopServiceRequest(deadline=Duration(), kill=True), INVALID
    ),
    "AdminService/GetConfig": Row("read_service", admin_pb2.GetConfigRequest()),
    "AdminService/UpdateConfig": Row("operate_service", admin_pb2.UpdateConfigRequest(), INVALID),
    "AdminService/PlanRetention": Row("read_service", admin_pb2.PlanRetentionRequest()),
}
ROWS = {f"/jobworker.v1.{name}": row for name, row in OURS.items()} | {
    "/grpc.health.v1.Health/Check": Row(HEALTH_CHECK, health_pb2.HealthCheckRequest()),
    "/grpc.health.v1.Health/List": Row(CERTIFICATE, health_pb2.HealthListRequest()),
    "/grpc.health.v1.Health/Watch": Row(CERTIFICATE, health_pb2.HealthCheckRequest()),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Row(
        CERTIFICATE, reflection_pb2.ServerReflectionRequest(list_services="")
    ),
    "/grpc.channelz.v1.Channelz/GetTopChannels": Row("operate_service", channelz_pb2.GetTopChannelsRequest()),
    "/grpc.channelz.v1.Channelz/GetServers": Row("operate_service", channelz_pb2.GetServersRequest()),
    "/grpc.channelz.v1.Channelz/GetServer": Row(
        "operate_service", channelz_pb2.GetServerRequest(server_id=1 << 40), MISSING
    ),
    "/grpc.channelz.v1.Channelz/GetServerSockets": Row(
        "operate_service", channelz_pb2.GetServerSocketsRequest(server_id=1 << 40), MISSING
    ),
    "/grpc.channelz.v1.Channelz/GetChannel": Row(
        "operate_service", channelz_pb2.GetChannelRequest(channel_id=1 << 40), MISSING
    ),
    "/grpc.channelz.v1.Channelz/GetSubchannel": Row(
        "operate_service", channelz_pb2.GetSubchannelRequest(subchannel_id=1 << 40), MISSING
    ),
    "/grpc.channelz.v1.Channelz/GetSocket": Row(
        "operate_service", channelz_pb2.GetSocketRequest(socket_id=1 << 40), MISSING
    ),
}


@dataclass
class Caller:
    """Who calls: with a bundle, or none, and a token, or none."""

    bundle: Path | None
    token: str = ""
    may: frozenset[str] = USER  # what it has of what methods take
    with_token: Answer = OK  # how a method that takes a token refuses it
    always: Answer = OK  # how every method does
    channel: grpc.Channel = field(init=False)

    def answer(self, row: Row) -> Answer:
        """How it is to be answered."""
        if self.always != OK:
            return self.always
        if row.takes not in (HEALTH_CHECK, CERTIFICATE) and self.with_token != OK:
            return self.with_token
        return row.answer if row.takes in self.may else DENIED


def _unauthenticated(reason: str) -> Answer:
    return ("UNAUTHENTICATED", reason)


# By what each is called below; tests run by these names, and the fixture makes them.
CALLERS = [
    "no certificate", "another authority's certificate", "health check", "no token", "malformed token", "viewer",
    "operator", "admin", "auditor", "steward", "unknown role", "a token that the test has signed", "another's token",
    "another's certificate", "an admin's token", "another key of the same user", "revoked certificate",
    "disabled user", "removed user", "user not in the file", "password changed since", "expired token",
    "revoked token", "wrong audience", "wrong issuer", "wrong kid", "no kid", "no alg", "HS256",
    "another key with our kid",
]  # fmt: skip


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One for the whole table."""
    roles = "auditor=read_all:steward=submit,cancel_all,read_service"
    with running(tmp_path_factory.mktemp("every") / "service", AUTH__ROLES=roles) as service:
        yield service


@pytest.fixture(scope="module")
def callers(own: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Caller]]:
    """All of them. Who is shut out was let in before, over the connection that is used now, too."""
    folder = tmp_path_factory.mktemp("callers")
    made = _made(own, folder)
    assert list(made) == CALLERS
    for caller in made.values():
        caller.channel = _channel(own, caller.bundle)
    for name, caller in made.items():
        if name in SHUT_OUT:
            assert _over_grpc(caller, "/jobworker.v1.JobQueryService/GetBatch") == MISSING
    for user, shut in SHUT_OUT.values():
        shut(own.pki, user)
    yield made
    for caller in made.values():
        caller.channel.close()


def _revoke(pki: Path, user: str) -> None:
    assert revoke(pki, user, reason=REASONS["key-compromise"], now=datetime.now(UTC))


def _take_out(pki: Path, user: str) -> None:
    """By hand: `jobpki remove` revokes the certificates as well."""
    path = Layout(pki).users
    users = read_users(path)
    del users[user]
    write_users(path, users)


SHUT_OUT: dict[str, tuple[str, Callable[[Path, str], object]]] = {
    "revoked certificate": ("lost", _revoke),
    "disabled user": ("shut", disable),
    "removed user": ("gone", lambda pki, user: remove(pki, user, now=datetime.now(UTC))),
    "user not in the file": ("erased", _take_out),
    "password changed since": ("changed", lambda pki, user: set_password(pki, user, None, cost=LOW_COST)),
}


def _made(own: Service, folder: Path) -> dict[str, Caller]:
    def bundle(user: str) -> Path:
        return own.pki / "clients" / user

    def new(user: str, role: Role = Role.OPERATOR, may: frozenset[str] = OPERATOR, **refused: Answer) -> Caller:
        directory.issue(own.pki, user, role=role, now=datetime.now(UTC), password=f"password of {user}", cost=LOW_COST)
        own.passwords[user] = f"password of {user}"
        # A copy: the bundle of who is removed goes.
        kept = Path(shutil.copytree(bundle(user), folder / user))
        return Caller(kept, own.api(user).token, may=may, **refused)

    def operator(name: str, **refused: Answer) -> Caller:
        return new(SHUT_OUT[name][0], **refused)

    alice, admin = Caller(bundle("alice"), own.api("alice").token, may=OPERATOR), own.api("admin").token
    stranger = make_pki(folder / "other").client("alice")
    (stranger / "ca.crt").write_bytes((own.pki / "ca/ca.crt").read_bytes())
    malformed, foreign = _unauthenticated("TOKEN_MALFORMED"), _unauthenticated("TOKEN_FOREIGN")
    sign = Tokens(own.pki, alice.token)
    revoke_tokens(own.pki, [REVOKED], now=datetime.now(UTC))
    return {
        "no certificate": Caller(None, alice.token, always=NO_HANDSHAKE),
        "another authority's certificate": Caller(stranger, alice.token, always=NO_HANDSHAKE),
        "health check": Caller(own.pki / "health", may=frozenset({HEALTH_CHECK}), with_token=DENIED),
        "no token": replace(alice, token="", with_token=_unauthenticated("TOKEN_MISSING")),
        "malformed token": replace(alice, token="a b", with_token=malformed),
        "viewer": Caller(bundle("vic"), own.api("vic").token, may=VIEWER),
        "operator": alice,
        "admin": Caller(bundle("admin"), admin, may=ADMIN),
        "auditor": new("watcher", Role.parse("auditor"), VIEWER),
        "steward": new("warden", Role.parse("steward"), USER | {"submit", "cancel", "read_service"}),
        "unknown role": new("stray", Role.parse("nobodys"), USER),
        "a token that the test has signed": replace(alice, token=sign()),
        "another's token": replace(alice, token=own.api("bob").token, with_token=foreign),
        "another's certificate": replace(alice, bundle=bundle("bob"), with_token=foreign),
        "an admin's token": replace(alice, token=admin, with_token=foreign),
        "another key of the same user": replace(
            alice, bundle=forge(own.pki, folder / "forged", "alice"), with_token=foreign
        ),
        "revoked certificate": operator("revoked certificate", always=_unauthenticated("CERTIFICATE_REVOKED")),
        "disabled user": operator("disabled user", with_token=_unauthenticated("USER_DISABLED")),
        "removed user": operator("removed user", always=_unauthenticated("CERTIFICATE_REVOKED")),
        "user not in the file": operator("user not in the file", with_token=_unauthenticated("USER_UNKNOWN")),
        "password changed since": operator("password changed since", with_token=_unauthenticated("TOKEN_EXPIRED")),
        "expired token": replace(alice, token=sign(exp=time.time() - 1), with_token=_unauthenticated("TOKEN_EXPIRED")),
        "revoked token": replace(alice, token=sign(jti=REVOKED), with_token=_unauthenticated("TOKEN_EXPIRED")),
        "wrong audience": replace(alice, token=sign(aud="spiffe://jobworker/other"), with_token=malformed),
        "wrong issuer": replace(alice, token=sign(iss="spiffe://elsewhere/server"), with_token=malformed),
        "wrong kid": replace(alice, token=sign(kid="another"), with_token=malformed),
        "no kid": replace(alice, token=sign(kid=None), with_token=malformed),
        "no alg": replace(alice, token=sign(alg="none"), with_token=malformed),
        "HS256": replace(alice, token=sign(alg="HS256"), with_token=malformed),
        "another key with our kid": replace(alice, token=sign(key=keys.generate()), with_token=malformed),
    }


def _channel(own: Service, bundle: Path | None) -> grpc.Channel:
    ca = (own.pki / "ca/ca.crt").read_bytes()
    own_files = () if bundle is None else ((bundle / "tls.key").read_bytes(), (bundle / "tls.crt").read_bytes())
    return grpc.secure_channel(f"127.0.0.1:{own.port}", grpc.ssl_channel_credentials(ca, *own_files), LOCAL)


def _over_grpc(caller: Caller, method: str) -> Answer:
    """How it is answered: with a first message, or with a status. To gRPC, all four kinds are streams of bytes."""
    row = ROWS[method]
    requests = [] if row.request is None else [row.request.SerializeToString()]
    metadata = [("authorization", f"Bearer {caller.token}")] if caller.token else []
    call = caller.channel.stream_stream(method)(iter(requests), metadata=metadata, timeout=CALL_SECONDS)
    try:
        for _ in call:
            call.cancel()  # Watch would go on
            break
    except grpc.RpcError as error:
        found = refusal(error)
        return found.name, found.reason
    return OK


def _over_rest(own: Service, caller: Caller, method: str) -> list[Answer]:
    """How each route of it is answered."""
    bundle = caller.bundle or own.pki / "clients/alice"
    context = client_context(bundle, with_certificate=caller.bundle is not None)
    rest = Rest(own.rest_port, context=context, token=caller.token)
    found = []
    for verb, path, body, kind in bindings(method, ROWS[method].request):
        try:
            answer = rest(verb, path, body, content_type=kind)
        except (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected):
            found.append(NO_HANDSHAKE)  # gRPC's clients call it so
            continue
        details = [] if answer.status == 200 else answer.json["details"]
        reasons = [detail["reason"] for detail in details if detail["@type"].endswith("google.rpc.ErrorInfo")]
        found.append((HTTP.get(answer.status, str(answer.status)), *(reasons or [""])))
        take_logouts_back(own.data)
    return found


async def test_each_method_that_the_server_has_has_a_row(served: Served) -> None:
    assert set(served.server.methods) == set(ROWS)


@pytest.mark.parametrize("name", CALLERS)
def test_every_method_answers_a_caller_as_it_is_to(own: Service, callers: dict[str, Caller], name: str) -> None:
    caller = callers[name]
    found = {}
    for method in ROWS:
        found[method] = _over_grpc(caller, method)
        take_logouts_back(own.data)
    assert found == {m: caller.answer(row) for m, row in ROWS.items()}


@pytest.mark.parametrize("name", CALLERS)
def test_every_route_answers_a_caller_as_its_method_does(own: Service, callers: dict[str, Caller], name: str) -> None:
    caller = callers[name]
    found = {method: _over_rest(own, caller, method) for method in ROWS}
    assert {m for m, answers in found.items() if answers} == {f"/jobworker.v1.{name}" for name in OURS}
    assert found == {m: [caller.answer(ROWS[m])] * len(answers) for m, answers in found.items()}


# Another's batch


def _asks(correlation_id: str) -> dict[str, Message]:
    """Requests that name a batch: of every method that takes one, with all else unset, and with more that is checked
    against the batch, where there is one."""
    asks: dict[str, Message] = {}
    for method, row in ROWS.items():
        if row.request is not None and "correlation_id" in row.request.DESCRIPTOR.fields_by_name:
            asks[method] = type(row.request)(correlation_id=correlation_id)  # type: ignore[call-arg]
    more = {"correlation_id": correlation_id, "job_index": [77]}
    asks |= {
        "/jobworker.v1.JobQueryService/SearchJob job": query_pb2.SearchJobRequest(**more),
        "/jobworker.v1.JobQueryService/StreamLogs job": query_pb2.StreamLogsRequest(**more),
        "/jobworker.v1.JobQueryService/StreamLogs cursor": query_pb2.StreamLogsRequest(
            correlation_id=correlation_id,
            cursors=[query_pb2.LogCursor(job_index=0, stream=job_pb2.LOG_STREAM_MERGED, offset=1 << 40)],
        ),
        "/jobworker.v1.JobScheduleService/CancelBatch job": schedule_pb2.CancelBatchRequest(**more),
    }
    return asks


def test_each_method_with_a_correlation_id_is_asked_for_anothers_batch() -> None:
    named = {
        f"/{service.full_name}/{method.name}"
        for file in (auth_pb2, schedule_pb2, query_pb2, admin_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if "correlation_id" in method.input_type.fields_by_name
    }
    assert named == {name for name in _asks(NEVER) if " " not in name}


@pytest.mark.parametrize("state", ["running", "finished"])
@pytest.mark.parametrize("who", ["bob", "vic"])
def test_anothers_batch_and_one_that_never_existed_are_answered_alike(own: Service, who: str, state: str) -> None:
    alice, theirs = own.api("alice"), own.api(who)
    if state == "running":
        batch = alice.submit("echo secret; sleep 600")
        until(lambda: alice.get(batch).counts.running, "the job runs")
    else:
        batch = alice.submit("echo secret")
        alice.wait(batch)
    caller = Caller(own.pki / "clients" / who, theirs.token)
    caller.channel = theirs.channel
    try:
        for (name, ask), never in zip(_asks(batch).items(), _asks(NEVER).values(), strict=True):
            method = name.partition(" ")[0]
            found = _whole(caller, method, ask), _whole_over_rest(own, caller, method, ask)
            for one, other in zip(
                found, (_whole(caller, method, never), _whole_over_rest(own, caller, method, never)), strict=True
            ):
                assert one.replace(batch, NEVER) == other, name
    finally:
        alice.cancel(batch)


def _whole(caller: Caller, method: str, request: Message) -> str:
    """A refusal with all that comes with it: code, message, metadata before and after, and so its details."""
    metadata = [("authorization", f"Bearer {caller.token}")]
    call = caller.channel.stream_stream(method)(
        iter([request.SerializeToString()]), metadata=metadata, timeout=CALL_SECONDS
    )
    with pytest.raises(grpc.RpcError):
        next(call)
    return repr((call.code(), call.details(), call.initial_metadata(), call.trailing_metadata()))


def _whole_over_rest(own: Service, caller: Caller, method: str, request: Message) -> str:
    """The same of each of its routes: status, headers but the time, and body."""
    assert caller.bundle is not None
    rest = Rest(own.rest_port, context=client_context(caller.bundle), token=caller.token)
    found = []
    for verb, path, body, kind in bindings(method, request):
        answer = rest(verb, path, body, content_type=kind)
        headers = {name: value for name, value in answer.headers.items() if name != "date"}
        found.append((answer.status, headers, answer.body))
    return repr(found)
