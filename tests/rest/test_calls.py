"""Calls as a client makes them: who they are by, what they are named, and that answers have the form described."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from jobworker.v1 import query_pb2
from tests.harness.rest import Answer, Rest, rest
from tests.harness.service import Api, Service
from tests.harness.wait import until

UNKNOWN = "01900000-0000-7000-8000-000000000000"


def new_id() -> str:
    """A UUIDv7 of now (RFC 9562 section 5.7)."""
    digits = f"{time.time_ns() // 1_000_000:012x}7{secrets.token_hex(2)[1:]}8{secrets.token_hex(8)[1:]}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


@pytest.fixture(scope="session")
def describes(shared_service: Service) -> Any:
    """Checks an answer's JSON against a schema of /openapi.json."""
    document = rest(shared_service, login=False)("GET", "/openapi.json").json

    def check(value: Any, schema: str) -> None:
        Draft202012Validator({"$ref": f"#/components/schemas/{schema}", "components": document["components"]}).validate(
            value
        )

    return check


def test_what_was_submitted_over_one_is_read_over_the_other(ours: Rest, api: Api) -> None:
    over_rest, over_grpc = ours.submit("echo rest"), api.submit("echo grpc")
    assert api.log(over_rest) == b"rest\n"
    found = ours("GET", f"/v1/job/search?correlation_id={over_grpc}").lines
    assert "".join(line["result"]["logOutput"] for line in found) == "grpc\n"


def test_a_token_of_one_works_on_the_other_and_with_its_own_key_alone(
    shared_service: Service, ours: Rest, api: Api
) -> None:
    token, ours.token = ours.token, api.token
    assert ours("GET", "/v1/batches").status == 200
    api.token = token
    api.query.ListBatches(query_pb2.ListBatchesRequest(), **api.call())
    bob = rest(shared_service, "bob", login=False)
    bob.token = token
    answer = bob("GET", "/v1/batches")
    assert (answer.status, answer.json["details"][0]["reason"]) == (401, "TOKEN_FOREIGN")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_roles_hold(shared_service: Service, ours: Rest) -> None:
    batch = ours.submit("true")
    viewer, bob, admin = (rest(shared_service, user) for user in ("vic", "bob", "admin"))
    assert viewer("POST", "/v1/job/schedule", {"command": "true"}).status == 403
    assert bob("GET", f"/v1/batches/{batch}").status == 404
    assert admin("GET", f"/v1/batches/{batch}").json["user"] == "alice"
    assert admin("GET", "/v1/admin/status").status == 200


def test_who_calls_is_asked_before_the_body_is_looked_at(ours: Rest) -> None:
    ours.token = ""
    assert ours("POST", "/v1/job/schedule", b"nonsense").status == 401
    assert ours("POST", "/v1/job/schedule", b"x", content_encoding="nonsense").status == 401


def test_no_header_but_the_token_says_who_calls(ours: Rest) -> None:
    batch = ours.submit("true")
    answer = ours("GET", f"/v1/batches/{batch}", x_forwarded_user="admin", x_user="admin", grpc_metadata_user="admin")
    assert answer.json["user"] == "alice"


def test_two_tokens_are_none(ours: Rest) -> None:
    connection = ours.connect()
    connection.putrequest("GET", "/v1/batches")
    for _ in range(2):
        connection.putheader("authorization", f"Bearer {ours.token}")
    connection.endheaders()
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["details"][0]["reason"]) == (401, "TOKEN_MALFORMED")
    connection.close()


def test_a_client_names_its_batch_and_may_say_it_again(ours: Rest) -> None:
    name = new_id()
    for path in ("/v1/job/schedule", "/v1/batches"):
        first = ours("POST", path, {"command": "true"}, x_correlation_id=name)
        assert first.json["correlationId"] == name
        assert first.headers["x-correlation-id"] == name
        assert ours("POST", path, {"command": "true"}, x_correlation_id=name).json["result"] == "DUPLICATE"
        other = ours("POST", path, {"command": "false"}, x_correlation_id=name)
        assert (other.status, other.json["code"]) == (409, 6)
        name = new_id()
    wrong = ours("POST", "/v1/job/schedule", {"command": "true"}, x_correlation_id="x")
    assert (wrong.status, wrong.violations) == (400, ["x-correlation-id"])


def test_a_line_that_is_no_job_leaves_nothing_of_its_batch(ours: Rest) -> None:
    before = ours("GET", "/v1/batches").json
    lines = b'{"command":"true"}\n{"command":"true"}\n{"command":'
    answer = ours("POST", "/v1/batches", lines, content_type="application/x-ndjson")
    assert (answer.status, answer.violations) == (400, ["lines[2]"])
    assert ours("GET", "/v1/batches").json == before


def test_a_batch_of_many_lines_is_taken_in(ours: Rest) -> None:
    count = 20_000
    body = b'{"argv":["true"],"batch":{"failFast":true}}\n' + b'{"argv":["false"]}\n' * (count - 1)
    answer = ours("POST", "/v1/batches", body, content_type="application/x-ndjson")
    assert (answer.status, answer.json["jobCount"]) == (200, count)
    assert ours.wait(answer.json["correlationId"])["state"] == "BATCH_STATE_FAILED"


def test_answers_have_the_form_that_is_described(shared_service: Service, ours: Rest, describes: Any) -> None:
    admin = rest(shared_service, "admin")
    batch = ours.submit("echo hi", "exit 3", "kill -9 $$")
    describes(ours.wait(batch), "Batch")
    describes(ours("GET", "/v1/batches?page_size=2").json, "ListBatchesResponse")
    describes(ours("POST", "/v1/job/schedule", {"command": "true"}).json, "JobResponse")
    describes(admin("GET", "/v1/admin/status").json, "ServiceStatus")
    describes(admin("GET", "/v1/admin/config").json, "Config")
    for line in ours("GET", f"/v1/job/search?correlation_id={batch}").lines:
        describes(line["result"], "SearchJobResponse")
    for line in ours("POST", f"/v1/batches/{batch}/logs", {}).lines:
        describes(line["result"], "LogChunk")
    for failure in (ours("GET", f"/v1/batches/{UNKNOWN}"), ours("GET", "/v1/admin/status"), ours("GET", "/nothing")):
        describes(failure.json, "Status")


def test_answers_are_private_and_say_little_of_the_server(ours: Rest) -> None:
    answer: Answer = ours("GET", "/v1/batches?page_size=1")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["server"] == "jobworker"


def test_each_call_is_a_line_in_the_log_like_one_over_grpc(shared_service: Service, ours: Rest) -> None:
    batch = ours.submit("true")
    assert ours("GET", f"/v1/batches/{batch}/jobs/7/logs").status == 400

    def lines() -> list[tuple[str, str, str]]:
        text = (shared_service.folder / "logs" / "service.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in text if batch in line]
        return [(line["method"], line["code"], line["user"]) for line in found if line["event"] == "rpc"]

    until(lambda: ("/jobworker.v1.JobQueryService/StreamLogs", "INVALID_ARGUMENT", "alice") in lines(), "its line")
