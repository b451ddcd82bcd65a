"""The audit log of a running service: who did what, from where, and what came of it; and what is never in it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography import x509

from jobpki import accounts
from jobworker.v1 import auth_pb2, job_pb2, query_pb2, schedule_pb2
from tests.harness.admin import Admin
from tests.harness.audit import files, lines, verify
from tests.harness.figures import scrape
from tests.harness.fill import fill
from tests.harness.http2 import call as raw_call
from tests.harness.lasting import follower
from tests.harness.refusal import refused
from tests.harness.rest import rest
from tests.harness.service import Service, running
from tests.harness.wait import until

SUBMIT = "/jobworker.v1.JobScheduleService/ExecuteJobs"


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("audit") / "service") as service:
        yield service


@pytest.fixture
def logs(audited: Service) -> Path:
    return audited.folder / "logs"


def last(folder: Path, **wanted: object) -> dict[str, Any]:
    """The newest line, which says these things."""
    found = lines(folder)[-1]
    assert {key: found.get(key) for key in wanted} == wanted
    return found


def serial_of(service: Service, user: str) -> str:
    pem = (service.pki / "clients" / user / "tls.crt").read_bytes()
    return f"{x509.load_pem_x509_certificate(pem).serial_number:x}"


def token_id(token: str) -> str:
    found: str = jwt.decode(token, options={"verify_signature": False})["jti"]
    return found


def test_a_login_is_told_before_it_is_answered(audited: Service, logs: Path) -> None:
    api = audited.api()
    line = last(
        logs, what="login", user="alice", serial=serial_of(audited, "alice"), token=token_id(api.token),
        host="127.0.0.1", transport="grpc", rpc="/jobworker.v1.AuthService/Login", code="OK",
    )  # fmt: skip
    assert line["port"] > 1024
    assert "reason" not in line
    user = rest(audited, "bob")
    last(logs, what="login", user="bob", token=token_id(user.token), host="127.0.0.1", transport="rest", code="OK")


def test_submissions_and_cancellations_are_told_with_their_batch(audited: Service, logs: Path) -> None:
    api = audited.api()
    who = {"user": "alice", "serial": serial_of(audited, "alice"), "token": token_id(api.token), "code": "OK"}
    batch = api.submit("sleep 600", "true")
    last(logs, what="submit", correlation_id=batch, jobs=2, result="ACCEPTED", rpc=SUBMIT, **who)
    api.submit("sleep 600", "true", metadata=[("x-correlation-id", batch)])
    last(logs, what="submit", correlation_id=batch, jobs=2, result="DUPLICATE", **who)
    admin = audited.api("admin")
    admin.cancel(batch, 0)
    last(logs, what="cancel", user="admin", correlation_id=batch, owner="alice", jobs=1, code="OK")
    answer = api.schedule.ExecuteJob(schedule_pb2.JobRequest(command="true"), **api.call())
    last(logs, what="submit", correlation_id=answer.correlation_id, jobs=1, **who)
    user = rest(audited)
    batch = user.submit("true")
    last(logs, what="submit", correlation_id=batch, transport="rest", user="alice", token=token_id(user.token))


def test_what_administrators_do_is_told(audited: Service, logs: Path) -> None:
    admin = Admin(audited)
    admin.stop(deadline_seconds=30, cancel_queued=True)
    last(logs, what="admin.stop", user="admin", deadline_seconds=30.0, cancel_queued=True, kill=False, code="OK")
    admin.start()
    last(logs, what="admin.start", user="admin", code="OK")
    generation = admin.config().generation
    last(logs, what="admin.config.read", user="admin")
    admin.update({"jobs": {"running": 77}})
    last(logs, what="admin.config.update", user="admin", generation=generation + 1, changes={"jobs.running": 77})
    refused(lambda: admin.update({"jobs": {"running": -1}}))
    line = last(logs, what="admin.config.update", user="admin", code="INVALID_ARGUMENT")
    assert "changes" not in line


def test_what_is_refused_is_told_whoever_and_wherever_it_is(audited: Service, logs: Path) -> None:
    stranger = audited.api("vic", login=False)
    refused(lambda: stranger.get("01900000-0000-7000-8000-000000000000"))
    last(
        logs, what="call", user="vic", serial=serial_of(audited, "vic"), code="UNAUTHENTICATED",
        reason="TOKEN_MALFORMED", rpc="/jobworker.v1.JobQueryService/GetBatch", token=None,
    )  # fmt: skip
    request = auth_pb2.LoginRequest(username="vic", password="wrong")
    refused(lambda: stranger.auth.Login(request))
    last(logs, what="login", user="vic", code="UNAUTHENTICATED", reason="LOGIN_FAILED", token=None)
    viewer = audited.api("vic")
    refused(lambda: viewer.submit("true"))
    refusal = {"code": "PERMISSION_DENIED", "reason": "ROLE_INSUFFICIENT", "rpc": SUBMIT}
    last(logs, what="submit", user="vic", token=token_id(viewer.token), **refusal)
    over_rest = rest(audited, "vic")
    assert over_rest("POST", "/v1/admin/stop", {}).status == 403
    last(
        logs, what="admin.stop", user="vic", transport="rest", token=token_id(over_rest.token), reason=refusal["reason"]
    )
    assert rest(audited, "vic", login=False)("GET", "/v1/batches").status == 401
    last(logs, what="call", user="vic", transport="rest", reason="TOKEN_MISSING")
    viewer.token = secrets.token_hex(20)
    refused(lambda: list(viewer.follow("01900000-0000-7000-8000-000000000000")))
    last(logs, what="call", user="vic", reason="TOKEN_MALFORMED", rpc="/jobworker.v1.JobQueryService/StreamLogs")


def test_queries_that_are_answered_are_not_told(audited: Service, logs: Path) -> None:
    api = audited.api()
    batch = api.submit("echo hello")
    count = len(lines(logs))
    api.wait(batch)
    api.get(batch)
    assert api.log(batch) == b"hello\n"
    api.jobs(batch)
    api.query.ListBatches(query_pb2.ListBatchesRequest(), **api.call())
    Admin(audited).status()
    assert len(lines(logs)) == count + 1, "the administrator's login"


def test_no_secret_is_in_it(audited: Service, logs: Path) -> None:
    known = {
        name: f"{name}-{secrets.token_hex(12)}" for name in ("command", "argument", "env", "stdin", "label", "password")
    }
    api = audited.api()
    tokens = [api.token]
    for request in (
        schedule_pb2.JobRequest(command=f": {known['command']}", env={"SECRET": known["env"]}),
        schedule_pb2.JobRequest(argv=["echo", known["argument"]], stdin=known["stdin"].encode()),
        schedule_pb2.JobRequest(argv=[known["argument"] + "\0"], env={known["env"] + "=": "x"}, cwd=known["command"]),
    ):
        batch = job_pb2.BatchOptions(name=known["label"], labels={"a": known["label"]})
        with suppress(grpc.RpcError):
            api.submit(request, batch=batch)
    for user, password in (("alice", known["password"]), (known["password"], audited.passwords["alice"])):
        login = auth_pb2.LoginRequest(username=user, password=password)
        refused(lambda login=login: api.auth.Login(login))
        answer = rest(audited, login=False)("POST", "/v1/auth/login", {"username": user, "password": password})
        assert answer.status == 401
    wrong = [f"Bearer {known['password']}", f"Basic {known['password']}", f"{api.token}{known['password']}"]
    for header in wrong:
        raw_call(
            audited, "alice", "/jobworker.v1.JobQueryService/ListBatches", [(b"authorization", header.encode())], b""
        )
        assert rest(audited, login=False)("GET", "/v1/batches", authorization=header).status == 401
    refused(lambda: Admin(audited).update({known["password"]: 1}))
    text = b"".join(path.read_bytes() for path in files(logs)).decode()
    for secret in (*known.values(), *tokens, *audited.passwords.values()):
        assert secret not in text
    for key in ("token.key", "users.json"):
        assert (audited.pki / "auth" / key).read_text()[:200] not in text


def test_the_log_is_for_its_user_alone(logs: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in files(logs)} == {0o600}


def test_the_chain_goes_on_over_restarts_kills_and_rotated_files(tmp_path: Path) -> None:
    service = Service(tmp_path / "service", AUDIT__MAX_BYTES="65536", AUDIT__FILES="20")
    folder = service.folder / "logs"
    try:
        api = service.start().api()
        for _ in range(200):
            api.schedule.ExecuteJob(schedule_pb2.JobRequest(command="true"), **api.call())
        service.kill_server()
        api.wait(api.submit("true"))
        service.stop()
        api = service.start().api()
        api.submit("true")
    finally:
        service.stop()
    assert len(files(folder)) > 1
    found = lines(folder)
    assert [line["n"] for line in found] == list(range(1, len(found) + 1))
    assert len(lines(folder, what="submit", code="OK")) == 202
    assert [line["what"] for line in found if line["what"].startswith("server.")] == (
        ["server.start", "server.start", "server.stop", "server.start", "server.stop"]
    )
    done = verify(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"OK: {len(found)} lines" in done.stdout


def test_the_bounds_may_be_changed_while_the_service_runs(tmp_path: Path) -> None:
    with running(tmp_path / "service") as service:
        Admin(service).update({"audit": {"max_bytes": 1 << 16, "files": 1, "sync": "call"}})
        api = service.api()
        logs = service.folder / "logs"
        while not (logs / "audit.jsonl.1").exists():
            api.schedule.ExecuteJob(schedule_pb2.JobRequest(command="true"), **api.call())
        assert verify(logs).returncode == 0


def test_changes_of_the_configuration_file_are_told(tmp_path: Path) -> None:
    file = tmp_path / "jobworker.toml"
    file.write_text("[jobs]\nrunning = 5\n")
    with running(tmp_path / "service", CONFIG=str(file)) as service:
        folder = service.folder / "logs"
        admin = Admin(service)
        file.write_text("[jobs]\nrunning = 6\n")
        admin.took_over("jobs.running", 6)
        until(lambda: lines(folder, what="config.change", changes={"jobs.running": 6}), "the change")
        file.write_text("[jobs]\nrunning = secret\n")
        (line,) = until(lambda: lines(folder, what="config.refused"), "the refusal")
        assert "secret" not in json.dumps(line)
        file.write_text("[jobs]\nrunning = 7\n")
        os.kill(service.pid, signal.SIGHUP)
        until(lambda: lines(folder, what="config.change", changes={"jobs.running": 7}), "the change")
        file.write_text("broken")
        until(lambda: len(lines(folder, what="config.refused")) == 2, "the refusal")
        service.kill_server()
        until(lambda: lines(folder, what="server.start", config_refused=True), "what was kept is in force")


def test_a_call_that_its_callers_disabling_ends_is_told_and_that_the_server_knows_of_it(tmp_path: Path) -> None:
    with running(tmp_path / "service") as service:
        folder = service.folder / "logs"
        api = service.api()
        following = follower(api, api.submit("echo hello; sleep 600"))
        accounts.disable(service.pki, "alice")
        following.join()
        last(
            folder, what="call", user="alice", rpc="/jobworker.v1.JobQueryService/StreamLogs",
            token=token_id(api.token), code="UNAUTHENTICATED", reason="USER_DISABLED",
        )  # fmt: skip
        assert lines(folder, what="credentials.change", files=["users"])
        assert lines(service.pki, what="user.disable", subject="user/alice")
        assert verify(folder, service.pki).returncode == 0


def test_a_flood_of_refused_calls_is_counted_and_leaves_room_for_others(tmp_path: Path) -> None:
    with running(tmp_path / "service") as service:
        folder = service.folder / "logs"
        stranger = service.api("alice", login=False)
        for _ in range(300):
            refused(lambda: stranger.get("01900000-0000-7000-8000-000000000000"))
        for _ in range(5):
            refused(lambda: service.api("bob", login=False).get("01900000-0000-7000-8000-000000000000"))
        api = service.api("alice")
        api.submit("true")
        assert len(lines(folder, what="submit", user="alice", code="OK")) == 1
        service.stop()
        told = len(lines(folder, what="call", user="alice"))
        left_out = lines(folder, what="audit.left_out")
        assert told + sum(line["callers"]["alice"] for line in left_out) == 300
        assert told <= 10 * (len(left_out) + 1)
        assert {reason for line in left_out for reason in line["reasons"]} == {"TOKEN_MALFORMED"}
        assert len(lines(folder, what="call", user="bob")) == 5
        assert verify(folder).returncode == 0


@pytest.mark.root
def test_a_full_disk_costs_lines_which_are_counted_and_no_answer(tmp_path: Path) -> None:
    folder = tmp_path / "service" / "logs"
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    try:
        with running(tmp_path / "service", AUDIT__SYNC="call") as service:
            api, admin = service.api(), Admin(service)
            fill(folder / "filler")
            while not admin.status().problems:
                assert api.wait(api.submit("true")).counts.succeeded == 1
            assert admin.status().problems == ["audit lines cannot be written: No space left on device"]
            assert api.wait(api.submit("true")).counts.succeeded == 1
            assert scrape(service.metrics_port).sum("jobworker_audit_lost_total") >= 2
            (folder / "filler").unlink()
            until(lambda: not admin.status().problems, "it goes on by itself")
            assert sum(line["count"] for line in lines(folder, what="audit.lost")) >= 2
            batch = api.submit("true")
            assert lines(folder, what="submit", correlation_id=batch)
            assert verify(folder).returncode == 0
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
