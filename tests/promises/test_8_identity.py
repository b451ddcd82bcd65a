"""No handshake without a certificate of this authority; a token works only with the key it was issued to; through the
API nobody sees another's batches but an administrator. Every method with every caller is in
tests/rpc/test_every_caller.py."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from jobpki import directory
from jobpki.layout import Layout
from jobpki.users import Role, read_users, write_users
from jobworker.v1 import auth_pb2, job_pb2, query_pb2, schedule_pb2
from tests.harness.forge import forge
from tests.harness.pki import LOW_COST
from tests.harness.refusal import Refusal, refused
from tests.harness.service import Api, Service, running
from tests.harness.wait import until

UNKNOWN = "01900000-0000-7000-8000-000000000000"
numbers = itertools.count()


def once(api: Api, user: str = "alice", password: str = "x") -> Callable[[], object]:
    """A login that waits for no server."""
    return lambda: api.auth.Login(auth_pb2.LoginRequest(username=user, password=password), timeout=30)


def get(api: Api, correlation_id: str = UNKNOWN) -> Callable[[], object]:
    """GetBatch, with what the client has for a token."""
    return lambda: api.get(correlation_id)


@pytest.fixture
def newcomer(shared_service: Service) -> Iterator[str]:
    """A user of the test's own, an operator whose password is the name."""
    name = f"newcomer{next(numbers)}"
    issue(shared_service, name, Role.OPERATOR)
    shared_service.passwords[name] = name
    yield name
    remove(shared_service, name)


def issue(service: Service, name: str, role: Role) -> None:
    """What `jobpki issue` does."""
    directory.issue(service.pki, name, role=role, now=datetime.now(UTC), password=name, cost=LOW_COST)


def remove(service: Service, name: str) -> None:
    """Takes a user out of the users file."""
    path = Layout(service.pki).users
    users = read_users(path)
    users.pop(name, None)
    write_users(path, users)


@pytest.fixture
def client(shared_service: Service) -> Iterator[Callable[[Path], Api]]:
    """Makes clients with any bundle."""
    made: list[Api] = []

    def make(bundle: Path) -> Api:
        made.append(Api(shared_service.port, bundle))
        return made[-1]

    yield make
    for api in made:
        api.close()


# The handshake


def test_without_tls_there_is_no_call(shared_service: Service) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{shared_service.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert refused(lambda: stub.Check(health_pb2.HealthCheckRequest(), timeout=30)).name == "UNAVAILABLE"


def test_an_expired_certificate_is_refused(
    shared_service: Service, client: Callable[[Path], Api], tmp_path: Path
) -> None:
    old = forge(shared_service.pki, tmp_path / "old", "alice", now=datetime.now(UTC) - timedelta(days=2))
    found = refused(once(client(old), password=shared_service.passwords["alice"]))
    assert found.name in {"UNAVAILABLE", "UNAUTHENTICATED"}


def test_the_servers_own_certificate_is_none_for_clients(
    shared_service: Service, client: Callable[[Path], Api]
) -> None:
    assert refused(once(client(shared_service.pki / "server"))).name in {"UNAVAILABLE", "UNAUTHENTICATED"}


# The token


def test_an_expired_token_is_refused_and_a_new_login_helps(tmp_path: Path) -> None:
    with running(tmp_path / "service", AUTH__TOKEN_LIFETIME_SECONDS="2") as service:
        api = service.api("alice")
        found = until(lambda: _reason(get(api), "TOKEN_EXPIRED"), "the token expires")
        assert found.name == "UNAUTHENTICATED"

        def again() -> bool:
            api.login("alice", service.passwords["alice"])
            return refused(get(api)).name == "NOT_FOUND"

        until(again, "the next token works")


def _reason(call: Callable[[], object], reason: str) -> Refusal | None:
    found = refused(call)
    return found if found.reason == reason else None


def test_a_renewed_certificate_with_the_same_key_keeps_its_tokens(
    shared_service: Service, alice: Api, client: Callable[[Path], Api], tmp_path: Path
) -> None:
    api = client(forge(shared_service.pki, tmp_path / "renewed", "alice", keep_key=True))
    api.token = alice.token
    assert refused(get(api)).name == "NOT_FOUND"


def test_garbage_and_nothing_are_no_tokens(shared_service: Service) -> None:
    api = shared_service.api("alice")
    header, payload, signature = api.token.split(".")
    unsigned = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0"  # {"alg":"none","typ":"JWT"}
    for token in ("garbage", "a.b.c", f"{header}.{payload}.", f"{unsigned}.{payload}.", f"{header}.{payload}.AAAA",
                  f"{header}.e30.{signature}", "x" * 8000):  # fmt: skip
        api.token = token
        found = refused(get(api))
        assert (found.name, found.reason) == ("UNAUTHENTICATED", "TOKEN_MALFORMED")
    for scheme in ("Basic dXNlcjpwYXNz", "Bearer", "Bearer "):
        found = refused(lambda scheme=scheme: _get_with(api, ("authorization", scheme)))
        assert (found.name, found.reason) == ("UNAUTHENTICATED", "TOKEN_MALFORMED")
    found = refused(lambda: _get_with(api))
    assert (found.name, found.reason) == ("UNAUTHENTICATED", "TOKEN_MISSING")


def _get_with(api: Api, *metadata: tuple[str, str]) -> object:
    request = query_pb2.GetBatchRequest(correlation_id=UNKNOWN)
    return api.query.GetBatch(request, metadata=metadata, timeout=30)


def test_metadata_says_nothing_about_who_calls(shared_service: Service, alice: Api) -> None:
    batch = alice.submit("true")
    spiffe = "spiffe://jobworker/user/alice"
    claims = [("x-user", "alice"), ("x-forwarded-user", "alice"), ("x-forwarded-client-cert", f"URI={spiffe}"),
              ("x-remote-user", "admin"), ("x-role", "admin"), ("x-jobworker-user", "alice"),
              ("x-forwarded-for", "127.0.0.1")]  # fmt: skip
    bob = shared_service.api("bob")
    request = query_pb2.GetBatchRequest(correlation_id=batch)
    assert refused(lambda: bob.query.GetBatch(request, **bob.call(metadata=claims))).name == "NOT_FOUND"
    found = refused(lambda: _get_with(bob, *claims))
    assert (found.name, found.reason) == ("UNAUTHENTICATED", "TOKEN_MISSING")


# The login


def test_every_failed_login_has_the_same_answer(
    shared_service: Service, newcomer: str, client: Callable[[Path], Api]
) -> None:
    api = client(shared_service.pki / "clients" / newcomer)
    wrong = [refused(once(api, newcomer, "wrong")), refused(once(api, newcomer, "")),
             refused(once(api, "nobody", newcomer)), refused(once(api, "", newcomer)),
             refused(once(api, "bob", shared_service.passwords["bob"])),
             refused(once(api, "admin", shared_service.passwords["admin"])),
             refused(once(api, newcomer, "x" * 8000))]  # fmt: skip
    remove(shared_service, newcomer)
    wrong.append(refused(once(api, newcomer, newcomer)))
    assert {(f.name, f.reason) for f in wrong} == {("UNAUTHENTICATED", "LOGIN_FAILED")}
    assert len({f.message for f in wrong}) == 1


def test_a_guesser_is_slowed_down_and_nobody_else(
    shared_service: Service, newcomer: str, client: Callable[[Path], Api]
) -> None:
    api = client(shared_service.pki / "clients" / newcomer)
    found = [refused(once(api, newcomer, f"guess {n}")) for n in range(11)]
    assert [f.name for f in found] == ["UNAUTHENTICATED"] * 10 + ["RESOURCE_EXHAUSTED"]
    assert found[-1].subjects == [f"user:{newcomer}"]
    assert found[-1].retry_seconds
    shared_service.api("bob")


def test_a_login_tells_when_its_token_expires(shared_service: Service, alice: Api) -> None:
    request = auth_pb2.LoginRequest(username="alice", password=shared_service.passwords["alice"])
    answer = alice.auth.Login(request, timeout=60)
    assert 0 < answer.expires_at.seconds - time.time() <= 3600


# Roles


def test_a_viewer_reads_and_neither_submits_nor_cancels(shared_service: Service) -> None:
    vic = shared_service.api("vic")
    denied = [
        refused(lambda: vic.schedule.ExecuteJob(schedule_pb2.JobRequest(command="true"), **vic.call())),
        refused(lambda: vic.submit("true")),
        refused(lambda: vic.cancel(UNKNOWN)),
    ]
    assert {(f.name, f.reason) for f in denied} == {("PERMISSION_DENIED", "ROLE_INSUFFICIENT")}
    assert not any((shared_service.data / "active").glob("*"))
    assert vic.query.ListBatches(query_pb2.ListBatchesRequest(), **vic.call()).next_page_token == ""
    assert refused(get(vic)).name == "NOT_FOUND"


def test_a_new_role_counts_at_the_next_call(shared_service: Service, newcomer: str) -> None:
    api = shared_service.api(newcomer)
    batch = api.submit("true")
    issue(shared_service, newcomer, Role.VIEWER)
    assert refused(lambda: api.submit("true")).name == "PERMISSION_DENIED"
    assert api.get(batch).user == newcomer
    issue(shared_service, newcomer, Role.ADMIN)
    other = shared_service.api("alice").submit("true")
    assert api.get(other).user == "alice"
    issue(shared_service, newcomer, Role.OPERATOR)
    assert refused(get(api, other)).name == "NOT_FOUND"
    api.submit("true")


def test_a_user_who_was_removed_is_out_at_the_next_call(shared_service: Service, newcomer: str) -> None:
    api = shared_service.api(newcomer)
    batch = api.submit("true")
    remove(shared_service, newcomer)
    found = refused(get(api, batch))
    assert (found.name, found.reason) == ("UNAUTHENTICATED", "USER_UNKNOWN")


def test_a_damaged_users_file_leaves_the_last_good_one_in_force(service: Service) -> None:
    api = service.api()
    path = Layout(service.pki).users
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    assert refused(get(api)).name == "NOT_FOUND"
    until(lambda: str(path) in service.output(), "the service says so")
    path.write_bytes(whole)
    assert refused(get(api)).name == "NOT_FOUND"


# Whose batches


@pytest.mark.parametrize("state", ["running", "finished"])
def test_nobody_sees_anothers_batch_but_an_administrator(shared_service: Service, alice: Api, state: str) -> None:
    bob, admin = shared_service.api("bob"), shared_service.api("admin")
    batch = alice.submit("echo secret; sleep 600" if state == "running" else "echo secret")
    if state == "finished":
        alice.wait(batch)
    assert refused(get(bob, batch)).name == "NOT_FOUND"
    assert batch not in listed(bob)
    assert batch in listed(alice)
    assert batch in listed(admin)
    assert batch in listed(admin, user="alice")
    assert batch not in listed(admin, user="bob")
    assert refused(lambda: listed(bob, user="alice")).name == "PERMISSION_DENIED"
    assert admin.get(batch).user == "alice"
    assert next(admin.follow(batch)).data == b"secret\n"
    assert alice.get(batch).counts.cancelled == 0
    final = admin.cancel(batch)
    assert final.counts.cancelled == (state == "running")
    assert admin.log(batch) == b"secret\n"
    assert [j.index for j in admin.jobs(batch)] == [0]


def listed(api: Api, *, user: str = "") -> list[str]:
    """The ids of every page."""
    found: list[str] = []
    token = ""
    while True:
        request = query_pb2.ListBatchesRequest(user=user, page_token=token, page_size=1000)
        page = api.query.ListBatches(request, **api.call())
        found += [b.correlation_id for b in page.batches]
        token = page.next_page_token
        if not token:
            return found


def test_a_name_of_anothers_batch_is_taken(shared_service: Service, alice: Api) -> None:
    batch = alice.submit("true")
    bob = shared_service.api("bob")
    for final in (False, True):
        if final:
            alice.wait(batch)
        found = refused(lambda: bob.submit("true", metadata=[("x-correlation-id", batch)]))
        assert found.name == "ALREADY_EXISTS"
        assert "alice" not in found.message


# What needs no token


def test_health_and_reflection_need_a_certificate_and_no_token(
    shared_service: Service, client: Callable[[Path], Api]
) -> None:
    channel = client(shared_service.pki / "clients/vic").channel
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "jobworker.v1.JobQueryService", "jobworker.v1.JobScheduleService", "jobworker.v1.AuthService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=60, wait_for_ready=True)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    unknown = refused(lambda: health.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=60))
    assert unknown.name == "NOT_FOUND"
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    asks = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="jobworker.v1.JobQueryService"),
    ]
    services, file = reflection.ServerReflectionInfo(iter(asks), timeout=60)
    assert "jobworker.v1.JobScheduleService" in {s.name for s in services.list_services_response.service}
    assert b"StreamLogs" in file.file_descriptor_response.file_descriptor_proto[0]


def test_a_method_that_is_not_there_is_unimplemented(alice: Api) -> None:
    for method in ("/jobworker.v1.JobQueryService/Nothing", "/no.such.Service/Call", "/"):
        call = alice.channel.unary_unary(method)
        found = refused(lambda call=call: call(b"", timeout=60, metadata=alice.metadata))
        assert found.name == "UNIMPLEMENTED"


def test_a_job_state_filter_is_no_way_around_ownership(shared_service: Service, alice: Api) -> None:
    alice.wait(alice.submit("true"))
    bob = shared_service.api("bob")
    request = query_pb2.ListBatchesRequest(state=[job_pb2.BATCH_STATE_SUCCEEDED], page_size=1000)
    assert {b.user for b in bob.query.ListBatches(request, **bob.call()).batches} <= {"bob"}
