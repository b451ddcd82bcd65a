"""`/openapi.json`: valid, whole, and what the service does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from jobworker.v1 import admin_pb2, auth_pb2, query_pb2, schedule_pb2
from tests.harness.rest import Rest, rest
from tests.harness.service import Service


@pytest.fixture
def document(shared_service: Service) -> dict[str, Any]:
    """As someone gets it who has a certificate and is not logged in."""
    answer = rest(shared_service, login=False)("GET", "/openapi.json")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    found: dict[str, Any] = answer.json
    return found


def test_it_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    validate(document, cls=OpenAPIV31SpecValidator)


def test_every_method_of_the_interface_has_an_operation(document: dict[str, Any]) -> None:
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    summaries = {operation["summary"] for operation in operations}
    for module in (admin_pb2, auth_pb2, query_pb2, schedule_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            assert summaries >= set(service.methods_by_name)
    assert len(operations) == 18  # StreamLogs has two
    assert len({operation["operationId"] for operation in operations}) == 18


def test_it_describes_with_the_words_of_the_protos(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert (
        document["paths"]["/v1/batches/{correlation_id}"]["get"]["description"] == "GetBatch tells a batch in counts."
    )
    assert schemas["JobRequest"]["properties"]["command"]["description"] == "A shell command line, run as `sh -c`."
    assert "- JOB_STATE_LOST: Its end was seen by nobody" in schemas["JobState"]["description"]


def test_only_the_login_takes_no_token(document: dict[str, Any]) -> None:
    without = [path for path, item in document["paths"].items() for operation in item.values()
               if operation.get("security") == [{"certificate": []}]]  # fmt: skip
    assert without == ["/v1/auth/login"]


def test_head_and_other_methods(ours: Rest) -> None:
    head = ours("HEAD", "/openapi.json")
    assert (head.status, head.body) == (200, b"")
    post = ours("POST", "/openapi.json", {})
    assert (post.status, post.headers["allow"]) == (405, "GET, HEAD")


def test_it_is_sent_compressed(ours: Rest) -> None:
    plain, packed = ours("GET", "/openapi.json"), ours("GET", "/openapi.json", accept_encoding="br, gzip;q=0.5")
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 2
    assert packed.json == plain.json
    assert "content-encoding" not in ours("GET", "/openapi.json", accept_encoding="gzip;q=0").headers
    assert json.dumps(plain.json)
