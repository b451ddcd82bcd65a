"""`rotate-ca` and `rotate-token-key`: at every step, who still gets in with what."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobpki.access import read_secret
from jobpki.bundle import check_server_bundle, load_certificate, load_certificates
from jobpki.directory import initialise, issue
from jobpki.errors import PkiError
from jobpki.issuing import authorities
from jobpki.keys import p256s_from_pem
from jobpki.renewal import Renewal
from jobpki.revocation import REASONS, read_revoked
from jobpki.revoking import revoke
from jobpki.rotation import finish, finish_token_key, prepare, rotate_token_key, switch
from jobpki.verify import Verification
from tests.harness.pki import LOW_COST, USERS, Pki, client_context, make_pki, server_context

NOW = datetime.now(UTC)


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return make_pki(tmp_path / "pki", now=NOW)


def shake(server: Path, client: Path) -> bool:
    """Whether both sides finish a handshake, strict about RFC 5280."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done: list[bool] = []

        def serve() -> None:
            try:
                with server_context(server).wrap_socket(theirs, server_side=True) as connection:
                    connection.recv(1)
                    done.append(True)
            except OSError:
                theirs.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with client_context(client).wrap_socket(ours, server_hostname="localhost") as connection:
                connection.send(b"x")
        except OSError:
            ours.close()
        thread.join(30)
        return bool(done)


def keep(pki: Pki, tmp_path: Path, user: str) -> Path:
    """The bundle as a user has it who was not given another one since."""
    kept = tmp_path / f"kept-{user}-{len(list(tmp_path.iterdir()))}"
    kept.mkdir()
    for path in pki.client(user).iterdir():
        (kept / path.name).write_bytes(path.read_bytes())
    return kept


def serials(pki: Pki) -> set[int]:
    return {load_certificate(path).serial_number for path in pki.root.rglob("tls.crt")}


def test_whoever_is_given_each_bundle_in_time_gets_in_at_every_step(pki: Pki, tmp_path: Path) -> None:
    server = pki.layout.server
    first = keep(pki, tmp_path, "alice")
    prepare(pki.root, now=NOW)
    assert shake(server, first)
    second = keep(pki, tmp_path, "alice")
    assert shake(server, second)
    switch(pki.root, now=NOW)
    third = keep(pki, tmp_path, "alice")
    assert [shake(server, bundle) for bundle in (first, second, third)] == [False, True, True]
    finish(pki.root, now=NOW)
    fourth = keep(pki, tmp_path, "alice")
    assert [shake(server, bundle) for bundle in (first, second, third, fourth)] == [False, False, True, True]
    assert Verification(pki.root, now=datetime.now(UTC)).faults == []
    check_server_bundle(pki.root, now=NOW)


@pytest.mark.parametrize("step", [prepare, switch, finish])
def test_each_step_can_be_repeated(pki: Pki, step: Callable[..., Renewal]) -> None:
    for before in (prepare, switch, finish):
        before(pki.root, now=NOW)
        if before is step:
            break
    files = {path: path.read_bytes() for path in pki.root.rglob("*") if path.is_file()}
    if step is finish:
        with pytest.raises(PkiError, match="no new authority was prepared"):
            switch(pki.root, now=NOW)
    assert step(pki.root, now=NOW) == Renewal()
    assert {path: path.read_bytes() for path in pki.root.rglob("*") if path.is_file()} == files


def test_no_step_comes_before_its_time(pki: Pki) -> None:
    with pytest.raises(PkiError, match="no new authority was prepared - run: jobpki rotate-ca prepare"):
        switch(pki.root, now=NOW)
    prepare(pki.root, now=NOW)
    with pytest.raises(PkiError, match="the old authority still signs - run: jobpki rotate-ca switch"):
        finish(pki.root, now=NOW)
    switch(pki.root, now=NOW)
    with pytest.raises(PkiError, match="the new authority signs already - run: jobpki rotate-ca finish"):
        prepare(pki.root, now=NOW)


def test_names_keys_passwords_and_lifetimes_stay(pki: Pki) -> None:
    before = {p: p.read_bytes() for p in pki.root.rglob("*") if p.name in {"tls.key", "password", "users.json"}}
    for step in (prepare, switch, finish):
        step(pki.root, now=NOW)
    assert {path: path.read_bytes() for path in before} == before
    end = load_certificate(pki.client("alice") / "tls.crt").not_valid_after_utc
    assert end - NOW.replace(microsecond=0) == timedelta(days=365)


def test_a_life_that_the_old_authority_cut_short_is_of_its_usual_length_under_the_new_one(pki: Pki) -> None:
    late = NOW + timedelta(days=3600)
    issue(pki.root, "carol", role=None, now=late, cost=LOW_COST)
    prepare(pki.root, now=late)
    switch(pki.root, now=late)
    end = load_certificate(pki.client("carol") / "tls.crt").not_valid_after_utc
    assert end - late.replace(microsecond=0) == timedelta(days=365)


def test_users_who_come_in_between_trust_what_the_others_do(pki: Pki) -> None:
    for step in (prepare, switch, finish):
        step(pki.root, now=NOW)
        issue(pki.root, step.__name__, role=None, now=NOW, cost=LOW_COST)
        initialise(pki.root, now=NOW, users=USERS, cost=LOW_COST)
        assert (pki.client(step.__name__) / "ca.crt").read_bytes() == (pki.layout.server / "ca.crt").read_bytes()
        assert shake(pki.layout.server, pki.client(step.__name__))
        assert Verification(pki.root, now=datetime.now(UTC)).faults == []


def test_what_the_old_authority_revoked_stays_so_through_every_step(pki: Pki, tmp_path: Path) -> None:
    reason = REASONS["key-compromise"]
    lost = load_certificate(pki.client("alice") / "tls.crt").serial_number
    revoke(pki.root, "alice", reason=reason, now=NOW)
    bobs = load_certificate(pki.client("bob") / "tls.crt").serial_number
    prepare(pki.root, now=NOW)
    switch(pki.root, now=NOW)
    assert load_certificate(pki.client("alice") / "tls.crt").serial_number == lost
    assert bobs in revoke(pki.root, "bob", reason=reason, now=NOW)
    finish(pki.root, now=NOW)
    revoke(pki.root, "vic", reason=reason, now=NOW)
    revoked = {serial for _, serial in read_revoked(pki.layout.crl, authorities(pki.layout))}
    assert {lost, bobs} <= revoked
    assert initialise(pki.root, now=NOW, users=USERS, cost=LOW_COST).made == []


def test_the_old_authority_may_have_expired(pki: Pki) -> None:
    late = NOW + timedelta(days=4000)
    for step in (prepare, switch, finish):
        step(pki.root, now=late)
    check_server_bundle(pki.root, now=late)


def test_the_new_authority_has_another_key_and_subject_and_the_same_trust_domain(pki: Pki) -> None:
    prepare(pki.root, now=NOW, lifetime=timedelta(days=100))
    old, new = load_certificates((pki.layout.server / "ca.crt").read_bytes(), pki.layout.server / "ca.crt")
    assert old.subject != new.subject
    assert old.public_key() != new.public_key()
    assert new.not_valid_after_utc == NOW.replace(microsecond=0) + timedelta(days=100)
    trusted = ssl.create_default_context(cafile=pki.layout.server / "ca.crt").get_ca_certs()
    assert len(trusted) == 2


def test_a_pki_of_another_authority_is_not_rotated(tmp_path: Path) -> None:
    initialise(tmp_path, now=NOW, cost=LOW_COST, certificates=False)
    with pytest.raises(PkiError, match="another authority's to issue"):
        prepare(tmp_path, now=NOW)


def test_token_keys_are_two_for_a_while(pki: Pki) -> None:
    path = pki.layout.token_key

    def public() -> list[object]:
        return [key.public_key() for key in p256s_from_pem(read_secret(path), path)]

    (old,) = public()
    rotate_token_key(pki.root)
    new, before = public()
    assert before == old
    assert new != old
    with pytest.raises(PkiError, match=r"two keys are in use already - run: jobpki rotate-token-key --finish"):
        rotate_token_key(pki.root)
    assert initialise(pki.root, now=NOW, users=USERS, cost=LOW_COST).made == []
    finish_token_key(pki.root)
    assert public() == [new]
    assert finish_token_key(pki.root).endswith("nothing to do")
    rotate_token_key(pki.root, at_once=True)
    assert len(public()) == 1
    assert public() != [new]
    assert path.stat().st_mode & 0o777 == 0o600
