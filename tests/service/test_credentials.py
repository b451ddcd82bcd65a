"""Certificates, authorities and users that change while the service runs: its listeners take the new ones without a
failed call, and calls that last end soon after their callers may not call any more."""

from __future__ import annotations

import contextlib
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobpki import accounts, directory, revoking, rotation
from jobpki.renewal import renew_one
from jobpki.revocation import REASONS
from jobpki.users import Role
from jobworker.v1 import admin_pb2, admin_pb2_grpc, job_pb2, query_pb2, schedule_pb2
from tests.harness.figures import scrape
from tests.harness.forge import forge
from tests.harness.lasting import Lasting, follower
from tests.harness.pki import client_context, make_pki, shown_certificate
from tests.harness.refusal import refused
from tests.harness.rest import Rest, rest
from tests.harness.service import CALL_SECONDS, Api, Service, running
from tests.harness.wait import until

TICKING = "while :; do echo tick; sleep 0.02; done"


def certificate(service: Service) -> bytes:
    """The one in the folder, DER."""
    return ssl.PEM_cert_to_DER_cert((service.pki / "server/tls.crt").read_text())


def taken(service: Service) -> None:
    """Waits until both listeners show what is in the folder."""
    ports, bundle = (service.port, service.rest_port), service.pki / "clients/admin"
    until(lambda: {shown_certificate(port, bundle) for port in ports} == {certificate(service)}, "both show it")


def changes(service: Service) -> int:
    """How often the server took other certificates or authorities."""
    return (service.folder / "logs/service.jsonl").read_text().count('"certificates changed"')


def problems(admin: Api) -> list[str]:
    """What GetStatus tells."""
    stub = admin_pb2_grpc.AdminServiceStub(admin.channel)
    return list(stub.GetStatus(admin_pb2.GetStatusRequest(), **admin.call()).problems)


class Load:
    """Calls in a row over a connection that stays, and over a new one each time; every failure is kept."""

    def __init__(self, service: Service, user: str, *, stays: bool = True) -> None:
        """`stays`: also over a connection that is never made anew."""
        self._stays = stays
        self.failures: list[object] = []
        self.rounds = 0
        self._service, self._user = service, user
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        staying = self._service.api(self._user)
        while not self._over.is_set():
            try:
                if self._stays:
                    assert staying.wait(staying.submit("true")).state == job_pb2.BATCH_STATE_SUCCEEDED
                # What a client reads that begins now; its files are replaced one after the other.
                fresh = Api(self._service.port, self._service.pki / "clients" / self._user)
                fresh.token = staying.token
                try:
                    fresh.query.ListBatches(query_pb2.ListBatchesRequest(), **fresh.call(wait_for_ready=False))
                finally:
                    fresh.close()
                context = client_context(self._service.pki / "clients" / self._user)
                answer = Rest(self._service.rest_port, context=context, token=staying.token)("GET", "/v1/batches")
                if answer.status != 200:
                    raise AssertionError(answer.body)
            except Exception as error:
                self.failures.append(error)
            self.rounds += 1

    def more(self, rounds: int = 3) -> None:
        """Waits until so many more were made."""
        until(lambda goal=self.rounds + rounds: self.rounds >= goal, "the load goes on")

    def stop(self) -> None:
        """Ends it; nothing has failed."""
        self._over.set()
        self._thread.join(CALL_SECONDS)
        assert not self.failures


def now() -> datetime:
    return datetime.now(UTC)


def test_a_renewed_server_certificate_is_shown_and_no_call_fails(service: Service) -> None:
    load, api = Load(service, "bob"), service.api()
    batch = api.submit(TICKING)
    following = follower(api, batch)
    before = certificate(service)
    renew_one(service.pki, "server", now=now())
    assert certificate(service) != before
    taken(service)
    load.more()
    load.stop()
    api.cancel(batch)
    following.join()
    assert following.ended_by is None
    assert following.log == api.log(batch)


def test_a_whole_change_of_the_authority_cuts_nobody_who_is_still_valid(service: Service) -> None:
    old, admin = service.api(), service.api("admin")
    batch = old.submit(TICKING)
    with_old = follower(old, batch)
    load = Load(service, "bob")
    rotation.prepare(service.pki, now=now())
    until(lambda: changes(service) == 1, "the server trusts both")
    load.more()
    rotation.switch(service.pki, now=now())
    taken(service)
    load.more()
    renewed = Api(service.port, service.pki / "clients/alice")
    renewed.token = old.token  # the key is the same, and so the token is good
    with_new = follower(renewed, batch)
    load.stop()  # its connection that stays is of the old authority, which is about to be forgotten
    assert with_old.ended_by is None
    load = Load(service, "bob")
    load.more()
    rotation.finish(service.pki, now=now())
    refusal = with_old.refusal()
    assert (refusal.name, refusal.reason) == ("UNAUTHENTICATED", "CERTIFICATE_INVALID")
    assert refused(lambda: old.get(batch)).reason == "CERTIFICATE_INVALID"
    assert refused(lambda: admin.get(batch)).reason == "CERTIFICATE_INVALID"
    load.more()
    load.stop()
    renewed.cancel(batch)
    with_new.join()
    assert with_new.ended_by is None
    assert with_new.log == renewed.log(batch)
    renewed.close()


def test_the_steps_in_a_row_shut_out_nobody_who_has_the_newest_bundle(service: Service) -> None:
    load = Load(service, "bob", stays=False)
    load.more()
    for step in ("prepare", "switch", "finish"):
        command = [str(Path(sys.executable).with_name("jobpki")), "rotate-ca", step, "--dir", str(service.pki)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert ("waiting" in done.stderr) == (step != "prepare")
    until(lambda: changes(service) == 3, "the server has taken all three")
    load.more()
    load.stop()


@pytest.mark.parametrize("file", ["tls.crt", "tls.key", "ca.crt"])
def test_a_bad_file_leaves_the_one_before_in_force_and_is_told(service: Service, file: str, tmp_path: Path) -> None:
    api, admin = service.api(), service.api("admin")
    before = shown_certificate(service.port, service.pki / "clients/alice")
    path = service.pki / "server" / file
    good = path.read_bytes()
    # Of another authority: each is well in itself, and does not belong to the others.
    path.write_bytes((make_pki(tmp_path / "other").layout.server / file).read_bytes())
    (told,) = until(lambda: problems(admin), "the problem is told")
    assert str(service.pki / "server") in told
    assert "stay in force" in told
    name = "jobworker_pki_last_reload_successful"
    until(lambda: scrape(service.metrics_port).value(name, file="server_certificate") == 0, "the metric says so")
    assert shown_certificate(service.port, service.pki / "clients/alice") == before
    assert api.wait(api.submit("true")).state == job_pb2.BATCH_STATE_SUCCEEDED
    path.write_bytes(good)
    until(lambda: not problems(admin), "all is well again")
    assert scrape(service.metrics_port).value(name, file="server_certificate") == 1
    assert (service.folder / "logs/service.jsonl").read_text().count("stay in force") == 1


def test_users_that_cannot_be_read_are_told(service: Service) -> None:
    admin = service.api("admin")
    path = service.pki / "auth/users.json"
    good = path.read_bytes()
    path.write_bytes(b"{")
    (told,) = until(lambda: problems(admin), "the problem is told")
    assert str(path) in told
    assert scrape(service.metrics_port).value("jobworker_pki_last_reload_successful", file="users") == 0
    path.write_bytes(good)
    until(lambda: not problems(admin), "all is well again")


def test_a_secret_of_kubernetes_that_is_swapped_is_taken(tmp_path: Path) -> None:
    service = Service(tmp_path / "service")
    service.make_pki()
    server = service.pki / "server"
    other = shutil.copytree(service.pki, tmp_path / "renewed")
    renew_one(other, "server", now=now())
    # As the kubelet has it: each file a link by way of ..data, which is a link to a folder, and is swapped by a rename.
    shutil.move(server, service.pki / "..first")
    shutil.move(other / "server", service.pki / "..second")
    server.mkdir(mode=0o700)
    for folder in ("first", "second"):
        shutil.move(service.pki / f"..{folder}", server / f"..{folder}")
    (server / "..data").symlink_to("..first")
    for name in ("ca.crt", "tls.crt", "tls.key"):
        (server / name).symlink_to(f"..data/{name}")
    try:
        service.start()
        before = shown_certificate(service.port, service.pki / "clients/alice")
        (server / "..new").symlink_to("..second")
        (server / "..new").rename(server / "..data")
        taken(service)
        assert shown_certificate(service.port, service.pki / "clients/alice") != before
    finally:
        service.stop()


# What lasts


def upload(api: Api, over: threading.Event) -> Lasting:
    """A batch of which one job comes, and the next only when it is over."""

    def requests() -> Iterator[schedule_pb2.JobRequest]:
        yield schedule_pb2.JobRequest(command="true")
        over.wait(CALL_SECONDS)

    return Lasting(lambda: api.schedule.ExecuteJobs(requests(), **api.call()))


def waiter(api: Api, batch: str) -> Lasting:
    """WaitBatch."""
    return Lasting(
        lambda: api.query.WaitBatch(query_pb2.WaitBatchRequest(correlation_id=batch), **api.call(timeout=CALL_SECONDS))
    )


ENDS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "revoked": (
        lambda pki: revoking.revoke(pki, "alice", reason=REASONS["unspecified"], now=now()),
        "UNAUTHENTICATED",
        "CERTIFICATE_REVOKED",
    ),
    "disabled": (lambda pki: accounts.disable(pki, "alice"), "UNAUTHENTICATED", "USER_DISABLED"),
    "removed": (lambda pki: accounts.remove(pki, "alice", now=now()), "UNAUTHENTICATED", "CERTIFICATE_REVOKED"),
    "password": (lambda pki: accounts.set_password(pki, "alice", "another one"), "UNAUTHENTICATED", "TOKEN_EXPIRED"),
    "logged out": (lambda pki: accounts.log_out(pki, "alice", now=now()), "UNAUTHENTICATED", "TOKEN_EXPIRED"),
    "token key": (lambda pki: rotation.rotate_token_key(pki, at_once=True), "UNAUTHENTICATED", "TOKEN_MALFORMED"),
    "role": (
        lambda pki: directory.issue(pki, "alice", role=Role.ADMIN, now=now()),
        "PERMISSION_DENIED",
        "ROLE_INSUFFICIENT",
    ),
}


@pytest.mark.parametrize("why", ENDS)
def test_what_lasts_ends_when_its_caller_may_not_call_any_more(service: Service, why: str) -> None:
    change, code, reason = ENDS[why]
    alice, bob, admin, over = service.api(), service.api("bob"), service.api("admin"), threading.Event()
    batch, his = alice.submit(TICKING), bob.submit(TICKING)
    lasting = [follower(alice, batch), waiter(alice, batch), upload(alice, over)]
    others = follower(bob, his)
    stub = admin_pb2_grpc.AdminServiceStub(admin.channel)
    status = lambda: stub.GetStatus(admin_pb2.GetStatusRequest(), **admin.call()).followers  # noqa: E731
    until(lambda: status() == 3, "two of hers and one of his follow")
    change(service.pki)
    for call in lasting:
        refusal = call.refusal()
        assert (refusal.name, refusal.reason) == (code, reason)
    over.set()
    if why == "token key":  # his is void as well
        others.join()
        admin.login("admin", service.passwords["admin"])
    else:
        bob.cancel(his)
        others.join()
        assert others.ended_by is None
    admin.cancel(batch)
    assert admin.log(batch).startswith(lasting[0].log)


def test_what_lasts_ends_with_its_token_and_goes_on_with_another(tmp_path: Path) -> None:
    with running(tmp_path / "service", AUTH__TOKEN_LIFETIME_SECONDS="4") as service:
        api = service.api()
        batch = api.submit(TICKING)
        following, waiting = follower(api, batch), waiter(api, batch)
        for call in (following, waiting):
            refusal = call.refusal()
            assert (refusal.name, refusal.reason) == ("UNAUTHENTICATED", "TOKEN_EXPIRED")
        api.login("alice", service.passwords["alice"])
        api.cancel(batch)
        assert api.log(batch).startswith(following.log)


def test_what_lasts_ends_with_its_certificate(service: Service, tmp_path: Path) -> None:
    bundle = forge(service.pki, tmp_path / "short", "alice", lifetime=timedelta(seconds=4))
    api = Api(service.port, bundle)
    api.login("alice", service.passwords["alice"])
    following = follower(api, api.submit(TICKING))
    refusal = following.refusal()
    assert (refusal.name, refusal.reason) == ("UNAUTHENTICATED", "CERTIFICATE_INVALID")
    api.close()


def test_a_stream_over_rest_ends_too(service: Service) -> None:
    api, client = service.api(), rest(service, "alice")
    batch = api.submit(TICKING)
    with contextlib.closing(client.connect()) as connection:
        headers = {"authorization": f"Bearer {client.token}"}
        connection.request("GET", f"/v1/batches/{batch}/jobs/0/logs", headers=headers)
        response = connection.getresponse()
        assert b"tick" in response.readline() or response.readline()
        accounts.disable(service.pki, "alice")
        assert b"USER_DISABLED" in response.read()
