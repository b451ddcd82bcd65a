"""What docs/SECURITY.md says to do when a key is lost or a user leaves, run as it is shown against a service in use."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import jwt

from jobpki import keys
from jobpki.directory import issue
from jobpki.users import Role, read_users
from jobworker.server.identity.certificate import key_thumbprint
from jobworker.server.identity.users import login_stamp
from jobworker.v1 import auth_pb2, job_pb2
from tests.harness.docs import blocks
from tests.harness.forge import forge
from tests.harness.jobctl import Jobctl
from tests.harness.lasting import follower
from tests.harness.refusal import refused
from tests.harness.service import Api, Service
from tests.harness.wait import until

LOST, CANCEL, LEAVES, TOKEN_KEY, AUTHORITY = range(5)
SLEEPING = "echo begun; sleep 600"


def follow(service: Service, which: int, folder: Path) -> None:
    """One block of the page, in a shell of the administrator's."""
    (folder / "cache").mkdir(exist_ok=True)
    jobctl = Jobctl(service, folder / "cache", "admin").login()
    shown = blocks("SECURITY.md", "When something has happened", "sh")
    assert len(shown) == AUTHORITY + 1
    setup = f'jobpki() {{ command jobpki "$@" --dir {shlex.quote(str(service.pki))}; }}\n'
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", setup + shown[which]],
        env={**jobctl.environment, "PATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_lost_laptop(service: Service, tmp_path: Path) -> None:
    alice, bob = service.api(), service.api("bob")
    batches = [alice.submit(SLEEPING) for _ in range(2)]
    his = bob.submit(SLEEPING)
    following = follower(alice, batches[0])
    follow(service, LOST, tmp_path)
    assert following.refusal().reason == "CERTIFICATE_REVOKED"
    assert refused(lambda: alice.get(batches[0])).reason == "CERTIFICATE_REVOKED"
    with tarfile.open(tmp_path / "alice.tar") as tar:
        tar.extractall(tmp_path / "given", filter="data")
    (bundle,) = (path.parent for path in (tmp_path / "given").glob("**/tls.crt"))
    found = Api(service.port, bundle)
    assert refused(lambda: found.login("alice", service.passwords["alice"])).reason == "LOGIN_FAILED"
    found.login("alice", (bundle / "password").read_text().strip())
    assert found.get(batches[0]).state == job_pb2.BATCH_STATE_RUNNING
    follow(service, CANCEL, tmp_path)
    assert {found.get(batch).state for batch in batches} == {job_pb2.BATCH_STATE_CANCELLED}
    assert bob.get(his).state == job_pb2.BATCH_STATE_RUNNING
    found.close()


def test_an_employee_leaves(service: Service, tmp_path: Path) -> None:
    alice, admin = service.api(), service.api("admin")
    batch = alice.submit(SLEEPING)
    following = follower(alice, batch)
    follow(service, LEAVES, tmp_path)
    assert following.refusal().name == "UNAUTHENTICATED"
    assert refused(lambda: alice.get(batch)).name == "UNAUTHENTICATED"
    assert refused(lambda: alice.login("alice", service.passwords["alice"])).name == "UNAUTHENTICATED"
    assert admin.get(batch).state == job_pb2.BATCH_STATE_RUNNING


def test_a_leaked_token_key(service: Service, tmp_path: Path) -> None:
    leaked = keys.p256_from_pem((service.pki / "auth/token.key").read_bytes(), service.pki)
    mallory = forge(service.pki, tmp_path / "mallory", "alice", keep_key=True)  # who has the key of her certificate too
    own = keys.p256_from_pem((mallory / "tls.key").read_bytes(), mallory)
    now, party = datetime.now(UTC), "spiffe://jobworker/server"
    claims = {
        "iss": party,
        "aud": party,
        "sub": "alice",
        "jti": "x",
        "iat": now,
        "exp": now + timedelta(days=1),
        "cnf": {"jkt": key_thumbprint(own.public_key())},
        "login": login_stamp(read_users(service.pki / "auth/users.json")["alice"]),
    }
    api, forged = service.api(), Api(service.port, mallory)
    batch = api.submit(SLEEPING)
    kid = key_thumbprint(leaked.public_key())
    forged.token = jwt.encode(claims, leaked, algorithm="ES256", headers={"kid": kid})
    following = follower(forged, batch)
    follow(service, TOKEN_KEY, tmp_path)
    assert following.refusal().reason == "TOKEN_MALFORMED"
    assert refused(lambda: forged.get(batch)).reason == "TOKEN_MALFORMED"
    assert refused(lambda: api.get(batch)).reason == "TOKEN_MALFORMED"
    api.login("alice", service.passwords["alice"])
    assert api.get(batch).state == job_pb2.BATCH_STATE_RUNNING
    forged.close()


def test_a_leaked_key_of_the_authority(service: Service, tmp_path: Path) -> None:
    issue(service.pki, "mallory", role=Role.ADMIN, now=datetime.now(UTC), password="guessed-once")
    forged = Api(service.port, forge(service.pki, tmp_path / "forged", "mallory"))
    forged.login("mallory", "guessed-once")
    batch = service.api().submit(SLEEPING)
    following = follower(forged, batch)
    follow(service, AUTHORITY, tmp_path)
    assert following.refusal().reason == "CERTIFICATE_INVALID"
    again = Api(service.port, tmp_path / "forged")

    def shut_out() -> bool:
        try:
            again.auth.Login(auth_pb2.LoginRequest(), timeout=10)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE  # no handshake
        return False

    until(shut_out, "the handshake is refused")
    known = service.api()  # the bundle in the folder is of the new authority
    assert known.get(batch).state == job_pb2.BATCH_STATE_RUNNING
    for api in (forged, again):
        api.close()
