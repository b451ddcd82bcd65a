"""Logins, with passwords hashed as in production: many at a time, beside guessers, and where there are no threads."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from jobpki import directory
from jobpki.layout import Layout
from jobpki.profiles import PasswordCost
from jobpki.users import Role
from jobworker.v1 import auth_pb2
from tests.harness.figures import ready, until_value
from tests.harness.pki import make_pki
from tests.harness.refusal import refused
from tests.harness.rest import rest
from tests.harness.service import Api, Service

USERS = ("ann", "ben", "cleo", "dan")
# Hours of one pass after another.
ENDLESS = "$argon2id$v=19$m=8,t=4294967295,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


def hashed_service(folder: Path) -> Service:
    """One that is not yet started, whose users have passwords that cost what they usually do."""
    service = Service(folder)
    service.passwords = make_pki(service.pki).passwords
    for name in USERS:
        made = directory.issue(service.pki, name, role=Role.VIEWER, now=datetime.now(UTC), cost=PasswordCost())
        service.passwords |= made.passwords
    return service


@contextlib.contextmanager
def on_processors(count: int) -> Iterator[None]:
    """What is started meanwhile has so many processors, or as many as there are."""
    all_of_them = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(all_of_them)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_of_them)


def login(service: Service, user: str, password: str | None = None) -> str:
    """The code of a login over a connection of its own."""
    api = Api(service.port, service.pki / "clients" / user)
    try:
        api.login(user, service.passwords[user] if password is None else password)
    except grpc.RpcError as error:
        return str(error.code().name)
    finally:
        api.close()
    return "OK"


@pytest.mark.parametrize("processors", [1, 2, 4])
def test_many_logins_at_a_time_all_succeed(tmp_path: Path, processors: int) -> None:
    service = hashed_service(tmp_path / "service")
    with on_processors(processors):
        service.start()
    try:
        with ThreadPoolExecutor(12) as clients:
            codes = list(clients.map(lambda user: login(service, user), USERS * 3))
        assert codes == ["OK"] * 12
        assert ready(service.metrics_port)[0] == 200
        assert rest(service, "ann").token
    finally:
        service.stop()


def test_others_log_in_while_two_certificates_guess(tmp_path: Path) -> None:
    service = hashed_service(tmp_path / "service").start()
    over = threading.Event()

    def guess(user: str) -> set[str]:
        codes = set()
        api = service.api(user, login=False)
        request = auth_pb2.LoginRequest(username=user, password="a guess")
        while not over.is_set():
            codes.add(refused(lambda: api.auth.Login(request, timeout=60, wait_for_ready=True)).name)
        return codes

    try:
        with ThreadPoolExecutor(8) as guessers:
            guesses = [guessers.submit(guess, user) for user in ("ann", "ben") for _ in range(4)]
            try:
                assert [login(service, user) for user in ("cleo", "dan") * 4] == ["OK"] * 8
            finally:
                over.set()
            assert {code for guessed in guesses for code in guessed.result()} <= {
                "UNAUTHENTICATED",
                "RESOURCE_EXHAUSTED",
            }
    finally:
        service.stop()


def test_a_check_that_does_not_end_makes_the_service_unready_and_the_others_log_in(service: Service) -> None:
    users = Layout(service.pki).users
    document = json.loads(users.read_text())
    for name in ("alice", "vic"):
        document["users"][name]["password"] = ENDLESS
    users.write_text(json.dumps(document))
    assert login(service, "alice") == "UNAVAILABLE"  # not only when its client gives up
    status, answer = ready(service.metrics_port)
    assert (status, answer["checks"]["logins"]) == (503, False)
    until_value(service, "jobworker_password_checks_overdue", 1)
    assert login(service, "bob") == "OK"
    assert login(service, "vic") == "UNAVAILABLE"
    until_value(service, "jobworker_password_checks_overdue", 2)
    found = refused(lambda: service.api("bob"))
    assert (found.name, found.retry_seconds is not None) == ("UNAVAILABLE", True)
    assert "within 10 s" in service.output()
    assert service.stop() == 0


# Root has no such limit: it is another user, who may still read where this Python lies.
NOBODY = "65534"
AS_A_USER = (
    ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
     "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    if os.geteuid() == 0
    else ()
)  # fmt: skip


def test_logins_and_calls_go_on_when_the_machine_gives_no_threads() -> None:
    # What a fork bomb of the same user does to the server: no thread of its own can be started any more (EAGAIN).
    with tempfile.TemporaryDirectory(prefix="jobworker-", dir="/var/tmp") as place:
        service = hashed_service(Path(place) / "service")
        if AS_A_USER:
            for folder, _, files in os.walk(place):
                for name in ("", *files):
                    os.chown(os.path.join(folder, name), int(NOBODY), int(NOBODY))
        service.start(prefix=AS_A_USER)
        try:
            server = service.child("server")
            threads = threads_of(server)
            subprocess.run([*AS_A_USER, "prlimit", f"--pid={server}", "--nproc=1:"], check=True, timeout=60)
            with ThreadPoolExecutor(8) as clients:
                assert list(clients.map(lambda user: login(service, user), USERS * 2)) == ["OK"] * 8
            user = rest(service, "alice")
            batch = user.submit("seq 100000")
            assert user.wait(batch)["counts"]["succeeded"] == 1
            logs = user("GET", f"/v1/batches/{batch}/jobs/0/logs", accept_encoding="gzip")
            assert len(logs.body) > 500_000
            assert service.api("bob").submit("true")
            assert ready(service.metrics_port)[0] == 200
            until_value(service, "jobworker_logins_total", 10, outcome="accepted")
            assert threads_of(server) <= threads
            assert service.stop() == 0
            # gRPC's core says that it would like more of them ("pthread_create failed"), and does without.
            assert "start new thread" not in service.output()
        finally:
            service.stop()


def threads_of(pid: int) -> set[str]:
    return set(os.listdir(f"/proc/{pid}/task"))


def test_a_pool_that_gets_no_threads_says_so_at_once() -> None:
    program = "from jobworker.server.threads import StartedPool; StartedPool(2, name='sync')"
    command = [*AS_A_USER, "prlimit", "--nproc=1:", sys.executable, "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "ThreadsError: the machine gives no thread for sync: see RLIMIT_NPROC" in done.stderr
