"""The front door, with a real PKI: who is let in to which method, and for what reason others are not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobpki.directory import issue
from jobpki.errors import PkiError
from jobpki.users import Role
from jobworker.server.errors import AuthReason, ExhaustedError, PermissionDeniedError, UnauthenticatedError
from jobworker.server.identity.gate import Identity
from jobworker.server.identity.roles import RIGHTS
from jobworker.server.identity.tls import load_tls
from jobworker.v1 import admin_pb2, auth_pb2, query_pb2, schedule_pb2
from tests.harness.forge import forge
from tests.harness.pki import LOW_COST, USERS, Pki, make_pki

GET = "/jobworker.v1.JobQueryService/GetBatch"
EXECUTE = "/jobworker.v1.JobScheduleService/ExecuteJob"
HEALTH = "/grpc.health.v1.Health/Check"
UNKNOWN = "/jobworker.v1.AdminService/DoesNotExist"
LIFETIME_SECONDS = 900


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return make_pki(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def monotonic() -> Clock:
    return Clock()


@pytest.fixture
def identity(pki: Pki, clock: Clock, monotonic: Clock) -> Iterator[Identity]:
    made = Identity(
        pki=pki.root,
        logged_out=pki.root / "logged-out.json",
        trust_domain=load_tls(pki.root, now=datetime.now(UTC)).trust_domain,
        token_lifetime_seconds=LIFETIME_SECONDS,
        clock=clock,
        monotonic=monotonic,
        on_problem=print,
    )
    yield made
    made.close()


async def bearer(identity: Identity, pki: Pki, user: str) -> str:
    issued = await identity.login(
        certificate_pem=pki.certificate_pem(user), username=user, password=pki.passwords[user]
    )
    return f"Bearer {issued.access_token}"


def refused(identity: Identity, reason: AuthReason, pem: bytes | None, authorization: str | None) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        identity.authenticate(method=GET, certificate_pem=pem, authorization=authorization)
    assert caught.value.reason is reason


async def test_a_login_opens_the_door(identity: Identity, pki: Pki, clock: Clock) -> None:
    token = await bearer(identity, pki, "alice")
    principal = identity.authenticate(method=EXECUTE, certificate_pem=pki.certificate_pem("alice"), authorization=token)
    assert (principal.user, principal.role, principal.sees_all) == ("alice", Role.OPERATOR, False)
    assert principal.token_expires_at == int(clock.now + LIFETIME_SECONDS)
    assert principal.expires_at == principal.token_expires_at
    assert principal.certificate_expires_at > principal.token_expires_at


async def test_a_method_that_the_table_does_not_name_is_for_administrators(identity: Identity, pki: Pki) -> None:
    for user in ("vic", "alice"):
        with pytest.raises(PermissionDeniedError):
            identity.authenticate(
                method=UNKNOWN,
                certificate_pem=pki.certificate_pem(user),
                authorization=await bearer(identity, pki, user),
            )
    token = await bearer(identity, pki, "admin")
    identity.authenticate(method=UNKNOWN, certificate_pem=pki.certificate_pem("admin"), authorization=token)


def test_the_table_names_every_method_of_the_service() -> None:
    files = (auth_pb2, schedule_pb2, query_pb2, admin_pb2)
    methods = {
        f"/{service.full_name}/{method.name}"
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert methods == {name for name in RIGHTS if name.startswith("/jobworker.")}


def test_health_takes_a_certificate_and_no_token(identity: Identity, pki: Pki) -> None:
    pem = pki.certificate_pem("vic")
    principal = identity.authenticate(method=HEALTH, certificate_pem=pem, authorization=None)
    assert (principal.user, principal.role, principal.token_expires_at) == ("vic", Role.VIEWER, None)
    with pytest.raises(UnauthenticatedError) as caught:
        identity.authenticate(method=HEALTH, certificate_pem=None, authorization=None)
    assert caught.value.reason is AuthReason.CERTIFICATE_INVALID


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        (None, AuthReason.TOKEN_MISSING),
        ("", AuthReason.TOKEN_MISSING),
        ("Bearer", AuthReason.TOKEN_MALFORMED),
        ("Bearer ", AuthReason.TOKEN_MALFORMED),
        ("Basic YTpi", AuthReason.TOKEN_MALFORMED),
        ("Bearer x.y.z", AuthReason.TOKEN_MALFORMED),
    ],
)
def test_without_a_token_there_is_no_way_in(
    identity: Identity, pki: Pki, authorization: str | None, reason: AuthReason
) -> None:
    refused(identity, reason, pki.certificate_pem("alice"), authorization)


async def test_the_scheme_is_read_in_any_case(identity: Identity, pki: Pki) -> None:
    token = (await bearer(identity, pki, "alice")).replace("Bearer", "bearer")
    identity.authenticate(method=GET, certificate_pem=pki.certificate_pem("alice"), authorization=token)


async def test_a_stolen_token_is_worth_nothing_with_another_certificate(identity: Identity, pki: Pki) -> None:
    token = await bearer(identity, pki, "admin")
    identity.authenticate(method=GET, certificate_pem=pki.certificate_pem("admin"), authorization=token)
    refused(identity, AuthReason.TOKEN_FOREIGN, pki.certificate_pem("alice"), token)
    refused(identity, AuthReason.CERTIFICATE_INVALID, None, token)


async def test_a_token_lives_on_when_the_certificate_is_renewed_with_its_key(identity: Identity, pki: Pki) -> None:
    token, old = await bearer(identity, pki, "alice"), pki.certificate_pem("alice")
    (pki.client("alice") / "tls.crt").unlink()
    issue(pki.root, "alice", role=Role.OPERATOR, now=datetime.now(UTC), cost=LOW_COST)
    assert pki.certificate_pem("alice") != old
    identity.authenticate(method=GET, certificate_pem=pki.certificate_pem("alice"), authorization=token)


async def test_a_token_does_not_outlive_a_new_key(identity: Identity, pki: Pki) -> None:
    token = await bearer(identity, pki, "alice")
    (pki.client("alice") / "tls.key").unlink()
    issue(pki.root, "alice", role=Role.OPERATOR, now=datetime.now(UTC), cost=LOW_COST)
    refused(identity, AuthReason.TOKEN_FOREIGN, pki.certificate_pem("alice"), token)


async def test_time_ends_tokens_and_certificates(identity: Identity, pki: Pki, clock: Clock) -> None:
    token, pem = await bearer(identity, pki, "alice"), pki.certificate_pem("alice")
    clock.now += LIFETIME_SECONDS
    refused(identity, AuthReason.TOKEN_EXPIRED, pem, token)
    clock.now += 366 * 86400
    refused(identity, AuthReason.CERTIFICATE_INVALID, pem, token)


async def test_a_role_that_is_taken_away_is_gone_at_the_next_call(identity: Identity, pki: Pki) -> None:
    token, pem = await bearer(identity, pki, "alice"), pki.certificate_pem("alice")
    identity.authenticate(method=EXECUTE, certificate_pem=pem, authorization=token)
    issue(pki.root, "alice", role=Role.VIEWER, now=datetime.now(UTC), cost=LOW_COST)
    with pytest.raises(PermissionDeniedError, match="takes the right submit; alice is viewer") as caught:
        identity.authenticate(method=EXECUTE, certificate_pem=pem, authorization=token)
    assert caught.value.reason is AuthReason.ROLE_INSUFFICIENT


async def test_a_user_who_is_removed_is_out_at_the_next_call(identity: Identity, pki: Pki) -> None:
    token, pem = await bearer(identity, pki, "alice"), pki.certificate_pem("alice")
    document = json.loads(pki.layout.users.read_text())
    del document["users"]["alice"]
    pki.layout.users.write_text(json.dumps(document))
    refused(identity, AuthReason.USER_UNKNOWN, pem, token)
    await login_fails(identity, pem, "alice", pki.passwords["alice"])


async def login_fails(identity: Identity, pem: bytes, username: str, password: str) -> str:
    with pytest.raises(UnauthenticatedError) as caught:
        await identity.login(certificate_pem=pem, username=username, password=password)
    assert caught.value.reason is AuthReason.LOGIN_FAILED
    return str(caught.value)


async def test_every_failed_login_says_the_same(identity: Identity, pki: Pki) -> None:
    pem = pki.certificate_pem("alice")
    messages = {
        await login_fails(identity, pem, "alice", "wrong"),
        await login_fails(identity, pem, "alice", ""),
        await login_fails(identity, pem, "alice", "x" * 100_000),
        await login_fails(identity, pem, "bob", pki.passwords["bob"]),  # another's name with the right password
        await login_fails(identity, pem, "nobody", "wrong"),
        await login_fails(identity, pem, "", ""),
    }
    assert len(messages) == 1


async def test_a_login_without_a_certificate_is_refused(identity: Identity, pki: Pki) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        await identity.login(certificate_pem=None, username="alice", password=pki.passwords["alice"])
    assert caught.value.reason is AuthReason.CERTIFICATE_INVALID


async def test_a_new_password_works_at_once_and_the_old_one_no_more(identity: Identity, pki: Pki) -> None:
    issue(pki.root, "alice", role=Role.OPERATOR, now=datetime.now(UTC), password="a new one", cost=LOW_COST)
    pem = pki.certificate_pem("alice")
    await login_fails(identity, pem, "alice", pki.passwords["alice"])
    await identity.login(certificate_pem=pem, username="alice", password="a new one")


async def test_guessing_is_stopped_for_a_while_and_for_that_certificate_alone(
    identity: Identity, pki: Pki, clock: Clock, monotonic: Clock
) -> None:
    pem = pki.certificate_pem("alice")
    for _ in range(10):
        await login_fails(identity, pem, "alice", "wrong")
    with pytest.raises(ExhaustedError, match="too many failed logins") as caught:
        await identity.login(certificate_pem=pem, username="alice", password=pki.passwords["alice"])
    assert caught.value.subject == "user:alice"
    await bearer(identity, pki, "bob")
    clock.now += 3600  # somebody sets it
    with pytest.raises(ExhaustedError, match="too many failed logins"):
        await identity.login(certificate_pem=pem, username="alice", password=pki.passwords["alice"])
    monotonic.now += caught.value.retry_after_seconds
    await bearer(identity, pki, "alice")


async def test_guessing_over_one_certificate_of_a_user_does_not_lock_out_the_others(
    identity: Identity, pki: Pki, tmp_path: Path
) -> None:
    stolen = (forge(pki.root, tmp_path / "stolen", "alice") / "tls.crt").read_bytes()
    for _ in range(10):
        await login_fails(identity, stolen, "alice", "wrong")
    with pytest.raises(ExhaustedError):
        await identity.login(certificate_pem=stolen, username="alice", password=pki.passwords["alice"])
    await bearer(identity, pki, "alice")
    with pytest.raises(ExhaustedError):  # a good login of the others does not help it
        await identity.login(certificate_pem=stolen, username="alice", password=pki.passwords["alice"])


async def test_one_user_does_not_fill_the_queue(identity: Identity, pki: Pki) -> None:
    pem = pki.certificate_pem("alice")
    outcomes = await asyncio.gather(
        *(identity.login(certificate_pem=pem, username="alice", password="wrong") for _ in range(9)),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, ExhaustedError) for outcome in outcomes) == 5
    await bearer(identity, pki, "bob")


async def test_logins_whose_clients_leave_give_their_places_back(identity: Identity, pki: Pki) -> None:
    for _ in range(10):
        task = asyncio.create_task(bearer(identity, pki, "alice"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    for user in ("alice", *USERS):
        await bearer(identity, pki, user)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("token.key", None, "is missing"),
        ("token.key", "no key", "is not an unencrypted private key in PEM"),
        ("users.json", None, "is missing"),
        ("users.json", "{", "is not JSON"),
    ],
)
def test_a_file_of_its_own_that_is_no_good_stops_the_start(pki: Pki, name: str, content: str | None, why: str) -> None:
    path = pki.layout.auth / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(PkiError, match=f"{path}: {why}"):
        Identity(
            pki=pki.root,
            logged_out=pki.root / "logged-out.json",
            trust_domain="jobworker",
            token_lifetime_seconds=60,
            clock=Clock(),
            monotonic=Clock(),
            on_problem=print,
        )


def test_the_certificate_of_the_health_check_opens_the_check_alone(identity: Identity, pki: Pki) -> None:
    pem = (pki.layout.health / "tls.crt").read_bytes()
    assert identity.authenticate(method=HEALTH, certificate_pem=pem, authorization=None).role is None
    for method in sorted({*RIGHTS, UNKNOWN} - {HEALTH}):
        with pytest.raises(PermissionDeniedError):
            identity.authenticate(method=method, certificate_pem=pem, authorization=None)
