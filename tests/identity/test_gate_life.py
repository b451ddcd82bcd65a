"""The front door while users, certificates and keys change behind it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest

from jobpki.accounts import disable, enable, log_out, remove, set_password
from jobpki.directory import issue
from jobpki.layout import Layout
from jobpki.renewal import renew_one
from jobpki.revocation import REASONS
from jobpki.revoking import revoke, revoke_tokens
from jobpki.rotation import finish_token_key, rotate_token_key
from jobworker.server.errors import AuthReason, UnauthenticatedError
from jobworker.server.identity.gate import Identity
from tests.harness.pki import LOW_COST, Pki
from tests.identity.conftest import start

GET = "/jobworker.v1.JobQueryService/GetBatch"
HEALTH = "/grpc.health.v1.Health/Check"


@pytest.fixture
def identity(pki: Pki, problems: list[str]) -> Iterator[Identity]:
    made = start(pki, problems)
    yield made
    made.close()


async def login(identity: Identity, pki: Pki, user: str = "alice", *, pem: bytes | None = None) -> str:
    issued = await identity.login(
        certificate_pem=pem or pki.certificate_pem(user), username=user, password=pki.passwords[user]
    )
    return f"Bearer {issued.access_token}"


def claims(token: str) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(token.removeprefix("Bearer "), options={"verify_signature": False})
    return found


async def reason_of_login(identity: Identity, pki: Pki, user: str = "alice") -> AuthReason:
    with pytest.raises(UnauthenticatedError) as caught:
        await login(identity, pki, user)
    return caught.value.reason


def call(identity: Identity, pem: bytes, token: str | None, method: str = GET) -> None:
    identity.authenticate(method=method, certificate_pem=pem, authorization=token)


def reason(identity: Identity, pem: bytes, token: str | None, method: str = GET) -> AuthReason:
    with pytest.raises(UnauthenticatedError) as caught:
        call(identity, pem, token, method)
    return caught.value.reason


async def test_a_disabled_user_is_refused_at_the_next_call_and_login(identity: Identity, pki: Pki) -> None:
    pem, token = pki.certificate_pem("alice"), await login(identity, pki)
    bobs = await login(identity, pki, "bob")
    disable(pki.root, "alice")
    assert reason(identity, pem, token) is AuthReason.USER_DISABLED
    assert await reason_of_login(identity, pki) is AuthReason.LOGIN_FAILED
    call(identity, pki.certificate_pem("bob"), bobs)
    enable(pki.root, "alice")
    assert reason(identity, pem, token) is AuthReason.TOKEN_EXPIRED
    call(identity, pem, await login(identity, pki))


async def test_a_changed_password_ends_the_tokens_of_before(identity: Identity, pki: Pki) -> None:
    pem, token = pki.certificate_pem("alice"), await login(identity, pki)
    pki.passwords["alice"] = set_password(pki.root, "alice", None, cost=LOW_COST).password or ""
    assert reason(identity, pem, token) is AuthReason.TOKEN_EXPIRED
    call(identity, pem, await login(identity, pki))


async def test_who_is_logged_out_has_to_log_in_again(identity: Identity, pki: Pki) -> None:
    pem, token = pki.certificate_pem("alice"), await login(identity, pki)
    bobs = await login(identity, pki, "bob")
    log_out(pki.root, "alice", now=datetime.now(UTC))
    assert reason(identity, pem, token) is AuthReason.TOKEN_EXPIRED
    call(identity, pem, await login(identity, pki))
    call(identity, pki.certificate_pem("bob"), bobs)


async def test_tokens_given_out_before_a_time_end_and_those_since_do_not(
    identity: Identity, pki: Pki, problems: list[str]
) -> None:
    pem, token = pki.certificate_pem("alice"), await login(identity, pki)
    issued_at = datetime.fromtimestamp(claims(token)["iat"], UTC)
    log_out(pki.root, "alice", before=issued_at, now=datetime.now(UTC))
    call(identity, pem, token)
    later = issued_at + timedelta(seconds=1)
    log_out(pki.root, "alice", before=later, now=later)
    assert reason(identity, pem, token) is AuthReason.TOKEN_EXPIRED
    assert problems == []


async def test_a_revoked_token_ends_and_no_other_also_after_a_restart(
    identity: Identity, pki: Pki, problems: list[str]
) -> None:
    pem, token, other = pki.certificate_pem("alice"), await login(identity, pki), await login(identity, pki)
    seen = identity.look()
    revoke_tokens(pki.root, [claims(token)["jti"]], now=datetime.now(UTC))
    assert reason(identity, pem, token) is AuthReason.TOKEN_EXPIRED
    call(identity, pem, other)
    assert any(one is not before for one, before in zip(identity.look(), seen, strict=True)), "calls that last go on"
    Layout(pki.root).revoked_tokens.unlink()
    assert reason(identity, pem, token) is AuthReason.TOKEN_EXPIRED
    assert identity.problems["revoked_tokens"] is not None
    revoke_tokens(pki.root, [claims(token)["jti"]], now=datetime.now(UTC))
    again = start(pki, problems)
    try:
        assert reason(again, pem, token) is AuthReason.TOKEN_EXPIRED
        call(again, pem, other)
    finally:
        again.close()


async def test_one_who_was_removed_and_comes_again_has_no_use_of_old_tokens(identity: Identity, pki: Pki) -> None:
    pem, token = pki.certificate_pem("alice"), await login(identity, pki)
    remove(pki.root, "alice", now=datetime.now(UTC))
    assert reason(identity, pem, token) is AuthReason.CERTIFICATE_REVOKED
    pki.passwords.update(issue(pki.root, "alice", role=None, now=datetime.now(UTC), cost=LOW_COST).passwords)
    assert reason(identity, pem, token) is AuthReason.CERTIFICATE_REVOKED
    assert reason(identity, pki.certificate_pem("alice"), token) is AuthReason.TOKEN_FOREIGN
    call(identity, pki.certificate_pem("alice"), await login(identity, pki))


async def test_a_revoked_certificate_opens_nothing_any_more(identity: Identity, pki: Pki) -> None:
    pem, token = pki.certificate_pem("alice"), await login(identity, pki)
    revoke(pki.root, "alice", reason=REASONS["key-compromise"], now=datetime.now(UTC))
    for method in (GET, HEALTH):
        assert reason(identity, pem, token, method) is AuthReason.CERTIFICATE_REVOKED
    assert await reason_of_login(identity, pki) is AuthReason.CERTIFICATE_REVOKED
    issue(pki.root, "alice", role=None, now=datetime.now(UTC), cost=LOW_COST)
    call(identity, pki.certificate_pem("alice"), await login(identity, pki))
    assert reason(identity, pem, token) is AuthReason.CERTIFICATE_REVOKED


async def test_a_revocation_outlives_a_restart(pki: Pki, problems: list[str]) -> None:
    revoke(pki.root, "alice", reason=REASONS["key-compromise"], now=datetime.now(UTC))
    again = start(pki, problems)
    try:
        assert await reason_of_login(again, pki) is AuthReason.CERTIFICATE_REVOKED
    finally:
        again.close()


async def test_a_list_that_is_damaged_or_gone_takes_no_revocation_back(
    identity: Identity, pki: Pki, problems: list[str]
) -> None:
    revoke(pki.root, "alice", reason=REASONS["key-compromise"], now=datetime.now(UTC))
    assert reason(identity, pki.certificate_pem("alice"), None) is AuthReason.CERTIFICATE_REVOKED
    os.truncate(pki.layout.crl, 100)
    assert reason(identity, pki.certificate_pem("alice"), None) is AuthReason.CERTIFICATE_REVOKED
    pki.layout.crl.unlink()
    assert reason(identity, pki.certificate_pem("alice"), None) is AuthReason.CERTIFICATE_REVOKED
    assert problems == [
        f"{pki.layout.crl}: {why}; the revocations read before stay in force"
        for why in ("is not a CRL in PEM", "is missing")
    ]


async def test_a_renewed_certificate_goes_with_the_token_of_before(identity: Identity, pki: Pki) -> None:
    token = await login(identity, pki)
    old = pki.certificate_pem("alice")
    renew_one(pki.root, "alice", now=datetime.now(UTC))
    assert pki.certificate_pem("alice") != old
    call(identity, pki.certificate_pem("alice"), token)
    call(identity, old, token)
    renew_one(pki.root, "alice", now=datetime.now(UTC), new_key=True)
    assert reason(identity, pki.certificate_pem("alice"), token) is AuthReason.TOKEN_FOREIGN


async def test_tokens_of_two_keys_are_good_until_the_older_is_forgotten(identity: Identity, pki: Pki) -> None:
    pem, old = pki.certificate_pem("alice"), await login(identity, pki)
    rotate_token_key(pki.root)
    call(identity, pem, old)
    new = await login(identity, pki)
    call(identity, pem, new)
    call(identity, pem, old)
    finish_token_key(pki.root)
    assert reason(identity, pem, old) is AuthReason.TOKEN_MALFORMED
    call(identity, pem, new)


async def test_a_leaked_token_key_is_replaced_at_once(identity: Identity, pki: Pki) -> None:
    pem, old = pki.certificate_pem("alice"), await login(identity, pki)
    rotate_token_key(pki.root)
    new = await login(identity, pki)
    rotate_token_key(pki.root, at_once=True)
    assert reason(identity, pem, old) is AuthReason.TOKEN_MALFORMED
    assert reason(identity, pem, new) is AuthReason.TOKEN_MALFORMED
    call(identity, pem, await login(identity, pki))


async def test_a_damaged_token_key_leaves_the_one_before_in_force(
    identity: Identity, pki: Pki, problems: list[str]
) -> None:
    pem, token = pki.certificate_pem("alice"), await login(identity, pki)
    pki.layout.token_key.write_text("damaged")
    call(identity, pem, token)
    call(identity, pem, await login(identity, pki))
    assert problems == [
        f"{pki.layout.token_key}: is not an unencrypted private key in PEM; the token keys read before stay in force"
    ]
