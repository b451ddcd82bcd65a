"""Tokens: what is in them, and which are refused for which reason."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest

from jobpki import keys
from jobworker.server.errors import AuthReason, UnauthenticatedError
from jobworker.server.identity.certificate import key_thumbprint
from jobworker.server.identity.token import Tokens

NOW = 1_772_366_400.25
LIFETIME_SECONDS = 600
PARTY = "spiffe://jobworker/server"
THUMBPRINT = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
KEY = keys.generate()
KID = key_thumbprint(KEY.public_key())


@pytest.fixture
def tokens() -> Tokens:
    return Tokens(keys=[KEY], trust_domain="jobworker", lifetime_seconds=LIFETIME_SECONDS, cached_tokens=4)


def refused(
    tokens: Tokens, token: str, reason: AuthReason, *, user: str = "alice", jkt: str = THUMBPRINT, now: float = NOW
) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        tokens.verify(token, user=user, thumbprint=jkt, now=now)
    assert caught.value.reason is reason


def issue(tokens: Tokens, user: str = "alice") -> str:
    return tokens.issue(user=user, thumbprint=THUMBPRINT, login="stamp", now=NOW).access_token


def claims_of(**changes: object) -> dict[str, Any]:
    claims = {"iss": PARTY, "aud": PARTY, "sub": "alice", "jti": "1", "iat": int(NOW), "exp": int(NOW) + 60}
    claims |= {"cnf": {"jkt": THUMBPRINT}} | changes
    return {name: value for name, value in claims.items() if value is not None}


def signed(key: Any = KEY, *, kid: object = KID, **changes: object) -> str:
    """A token with other claims, or of another key."""
    headers = {"alg": "ES256", "typ": "JWT"} | ({} if kid is None else {"kid": kid})
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (headers, claims_of(**changes))
    ]
    signature = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256).sign(b".".join(parts), key)
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def test_what_the_tests_sign_is_a_token(tokens: Tokens) -> None:
    tokens.verify(signed(), user="alice", thumbprint=THUMBPRINT, now=NOW)


# The code of version 1 had the same header: {"alg": "ES256", "kid": <thumbprint of the key>, "typ": "JWT"}.
@pytest.mark.parametrize(
    "kid",
    [None, "", "another", KID + "A", KID[:-1], KID.lower(), "../../etc/passwd", "x" * 2000, 7, [KID], {"kid": KID}],
)
def test_a_token_that_names_another_key_or_none_is_malformed(tokens: Tokens, kid: object) -> None:
    refused(tokens, signed(kid=kid), AuthReason.TOKEN_MALFORMED)
    assert not tokens._checked


def test_a_token_of_another_key_that_names_ours_is_malformed(tokens: Tokens) -> None:
    refused(tokens, signed(keys.generate()), AuthReason.TOKEN_MALFORMED)


def test_a_token_has_the_documented_claims(tokens: Tokens) -> None:
    issued = tokens.issue(user="alice", thumbprint=THUMBPRINT, login="stamp", now=NOW)
    header = jwt.get_unverified_header(issued.access_token)
    claims = jwt.decode(issued.access_token, options={"verify_signature": False})
    assert header == {"alg": "ES256", "kid": KID, "typ": "JWT"}
    assert claims.pop("jti")
    assert claims == {
        "iss": PARTY,
        "aud": PARTY,
        "sub": "alice",
        "iat": int(NOW),
        "exp": int(NOW + LIFETIME_SECONDS),
        "cnf": {"jkt": THUMBPRINT},
        "login": "stamp",
    }
    assert issued.expires_at_unix == claims["exp"]


def test_no_two_tokens_have_the_same_id(tokens: Tokens) -> None:
    one, two = (tokens.verify(issue(tokens), user="alice", thumbprint=THUMBPRINT, now=NOW) for _ in range(2))
    assert one.token_id != two.token_id


def test_a_token_works_until_it_expires_checked_before_or_not(tokens: Tokens) -> None:
    checked, unchecked = issue(tokens), issue(tokens)
    end = int(NOW + LIFETIME_SECONDS)
    claims = tokens.verify(checked, user="alice", thumbprint=THUMBPRINT, now=NOW)
    assert (claims.user, claims.expires_at) == ("alice", end)
    tokens.verify(checked, user="alice", thumbprint=THUMBPRINT, now=end - 0.001)
    for token in (checked, unchecked):
        refused(tokens, token, AuthReason.TOKEN_EXPIRED, now=end)


def test_a_token_over_another_key_is_foreign_checked_before_or_not(tokens: Tokens) -> None:
    token = issue(tokens)
    refused(tokens, token, AuthReason.TOKEN_FOREIGN, jkt="another")
    tokens.verify(token, user="alice", thumbprint=THUMBPRINT, now=NOW)
    refused(tokens, token, AuthReason.TOKEN_FOREIGN, jkt="another")


def test_another_users_token_is_foreign_even_with_the_same_key(tokens: Tokens) -> None:
    token = issue(tokens, "bob")
    for _ in range(2):
        refused(tokens, token, AuthReason.TOKEN_FOREIGN)


def test_a_token_that_another_key_signed_is_malformed(tokens: Tokens) -> None:
    other = Tokens(keys=[keys.generate()], trust_domain="jobworker", lifetime_seconds=LIFETIME_SECONDS)
    refused(tokens, issue(other), AuthReason.TOKEN_MALFORMED)


def test_another_services_token_with_the_same_key_is_malformed(tokens: Tokens) -> None:
    other = Tokens(keys=[KEY], trust_domain="elsewhere", lifetime_seconds=LIFETIME_SECONDS)
    refused(tokens, issue(other), AuthReason.TOKEN_MALFORMED)


def test_a_changed_token_is_malformed(tokens: Tokens) -> None:
    token = issue(tokens)
    header, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    forged = base64.urlsafe_b64encode(json.dumps(claims | {"sub": "admin"}).encode()).rstrip(b"=").decode()
    refused(tokens, f"{header}.{forged}.{signature}", AuthReason.TOKEN_MALFORMED, user="admin")


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "...", "ä.ö.ü", "\ud800", "a" * 5000, "e30.e30.", "\0.\0.\0"])
def test_what_is_no_token_is_malformed(tokens: Tokens, text: str) -> None:
    refused(tokens, text, AuthReason.TOKEN_MALFORMED)


def test_a_token_without_a_signature_is_malformed(tokens: Tokens) -> None:
    refused(tokens, jwt.encode(claims_of(), None, algorithm="none"), AuthReason.TOKEN_MALFORMED)


def test_the_public_key_is_no_secret_to_sign_with(tokens: Tokens) -> None:
    # RFC 8725 section 2.1: a verifier that believes the header takes this HMAC for good.
    header, payload = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "HS256", "typ": "JWT"}, claims_of())
    )
    refused(tokens, f"{header}.{payload}.AAAA", AuthReason.TOKEN_MALFORMED)


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "jti", "iat", "exp", "cnf"])
def test_a_token_that_lacks_a_claim_is_malformed(tokens: Tokens, claim: str) -> None:
    refused(tokens, signed(**{claim: None}), AuthReason.TOKEN_MALFORMED)


@pytest.mark.parametrize("changes", [{"sub": 7}, {"jti": 7}, {"cnf": "x"}, {"exp": "soon"}, {"exp": [1]}])
def test_a_token_with_a_claim_of_the_wrong_kind_is_malformed(tokens: Tokens, changes: dict[str, Any]) -> None:
    refused(tokens, signed(**changes), AuthReason.TOKEN_MALFORMED)


def test_tokens_that_are_remembered_stay_within_bounds(tokens: Tokens) -> None:
    made = [issue(tokens) for _ in range(20)]
    for token in made * 2:
        tokens.verify(token, user="alice", thumbprint=THUMBPRINT, now=NOW)
    assert len(tokens._checked) == 4
