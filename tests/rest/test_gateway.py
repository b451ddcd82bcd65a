"""The same requests to the service and to a real grpc-gateway in front of it: the same status and the same JSON.

What differs on purpose stands in docs/rest.md, and in the tests at the end, each with what the gateway does.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.harness.rest import Answer, Rest

pytestmark = pytest.mark.go
UNKNOWN = "01900000-0000-7000-8000-000000000000"


def both(ours: Rest, theirs: Rest, method: str, path: str, body: Any = None, **headers: str) -> tuple[Answer, Answer]:
    """The two answers."""
    return ours(method, path, body, **headers), theirs(method, path, body, **headers)


def agree(ours: Rest, theirs: Rest, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    """Both answer the same, down to the last member; our answer."""
    mine, other = both(ours, theirs, method, path, body, **headers)
    assert (mine.status, mine.json) == (other.status, other.json)
    return mine


def agree_on_refusal(ours: Rest, theirs: Rest, method: str, path: str, body: Any = None) -> Answer:
    """Both refuse with the same status and code; the words are their own, and ours name the field. Our answer."""
    mine, other = both(ours, theirs, method, path, body)
    assert (mine.status, mine.json["code"]) == (other.status, other.json["code"]), (mine.body, other.body)
    assert mine.status == 400
    return mine


@pytest.fixture(scope="module")
def finished() -> list[str]:
    """The CorrelationID of a finished batch, made once."""
    return []


@pytest.fixture
def batch(ours: Rest, finished: list[str]) -> str:
    """A batch of four jobs that has ended: words, an exit code, a signal, and bytes that are not UTF-8."""
    if not finished:
        finished.append(ours.submit("echo hi >&2; echo ünï", "exit 3", "kill -9 $$", r"printf '\377\000x'"))
        ours.wait(finished[0])
    return finished[0]


# Answers


def test_a_batch(ours: Rest, theirs: Rest, batch: str) -> None:
    found = agree(ours, theirs, "GET", f"/v1/batches/{batch}")
    assert found.status == 200
    assert found.json["counts"] == {"queued": 0, "running": 0, "succeeded": 2, "failed": 2, "cancelled": 0,
                                    "timedOut": 0, "lost": 0, "skipped": 0}  # fmt: skip
    assert found.headers["content-type"] == "application/json"


def test_a_batch_that_was_waited_for(ours: Rest, theirs: Rest, batch: str) -> None:
    agree(ours, theirs, "GET", f"/v1/batches/{batch}:wait")
    agree(ours, theirs, "GET", f"/v1/batches/{batch}:wait?timeout=1.5s")


def test_a_cancelled_batch(ours: Rest, theirs: Rest, batch: str) -> None:
    agree(ours, theirs, "POST", f"/v1/batches/{batch}:cancel", {"jobIndex": [0, "1"], "grace": "0.5s"})
    agree(ours, theirs, "POST", f"/v1/batches/{batch}:cancel", {"job_index": [], "grace": None})
    agree(ours, theirs, "POST", f"/v1/batches/{batch}:cancel")


QUERIES = [
    "page_size=1", "pageSize=1", "page_size=1&state=BATCH_STATE_FAILED", "state=4&state=BATCH_STATE_SUCCEEDED",
    "state=BATCH_STATE_QUEUED&page_size=1", "user=alice&page_size=1", "page_size=1&page_token=",
]  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
def test_a_list_of_batches(ours: Rest, theirs: Rest, batch: str, query: str) -> None:
    assert agree(ours, theirs, "GET", f"/v1/batches?{query}").status == 200


@pytest.mark.parametrize("query", [
    "", "&job_index=1&job_index=2", "&jobIndex=2", "&omit_log=true", "&omitLog=1&snapshot=T", "&state=JOB_STATE_FAILED",
    "&state=3&state=4&snapshot=false",
])  # fmt: skip
def test_a_search(ours: Rest, theirs: Rest, batch: str, query: str) -> None:
    mine, other = both(ours, theirs, "GET", f"/v1/job/search?correlation_id={batch}{query}")
    assert (mine.status, mine.lines) == (other.status, other.lines)
    assert mine.status == 200


@pytest.mark.parametrize(("path", "body"), [
    ("jobs/0/logs", None), ("jobs/3/logs?offset=1", None), ("jobs/1/logs?tail_bytes=2&no_follow=true", None),
    ("logs", {}), ("logs", {"jobIndex": [0, 3], "cursors": [{"jobIndex": 3, "offset": "2"}]}),
    ("logs", {"cursors": [{"jobIndex": 0, "stream": "LOG_STREAM_MERGED", "offset": 3}], "tailLines": 1}),
    ("logs", {"cursors": [{"job_index": "0", "stream": 1}]}),
])  # fmt: skip
def test_logs(ours: Rest, theirs: Rest, batch: str, path: str, body: Any) -> None:
    mine, other = both(ours, theirs, "GET" if body is None else "POST", f"/v1/batches/{batch}/{path}", body)
    assert mine.status == other.status == 200
    assert [_untimed(line) for line in mine.lines] == [_untimed(line) for line in other.lines]
    assert mine.lines


def _untimed(line: dict[str, Any]) -> dict[str, Any]:
    """A chunk without the time of this call."""
    assert line["result"].pop("observedAt")
    return line


@pytest.mark.parametrize(("path", "body"), [
    ("/v1/job/schedule", {"command": "true"}),
    ("/v1/job/schedule", {"argv": ["true"], "timeout": "3s", "limits": {"memoryBytes": "100000000", "openFiles": 64},
                          "env": {"A": "b"}, "output": "OUTPUT_MODE_SEPARATE", "stdin": "aGk=", "name": "näme"}),
    ("/v1/job/schedule", {"command": "true", "output": 2, "stdin": "_-8", "limits": {"memory_bytes": 1e8},
                          "batch": {"labels": {"a": "b"}, "failFast": True, "parallelism": 2}, "cwd": None}),
    ("/v1/batches", {"command": "true"}),
    ("/v1/batches", b'{"command":"true","batch":{"name":"x"}}\n{"argv":["true"]}\n\n{"command":"true"}'),
])  # fmt: skip
def test_a_batch_that_is_submitted_twice(ours: Rest, theirs: Rest, path: str, body: Any) -> None:
    """Both see one name and one content: the second is a duplicate of the first, byte by byte."""
    answer = ours("POST", path, body)
    assert (answer.status, answer.json["result"]) == (200, "ACCEPTED")
    name = answer.json["correlationId"][:-12] + f"{int(answer.json['correlationId'][-12:], 16) ^ 1:012x}"
    first = theirs("POST", path, body, x_correlation_id=name)
    assert (first.status, first.json["result"]) == (200, "ACCEPTED")
    found = agree(ours, theirs, "POST", path, body, x_correlation_id=name)
    assert (found.json["result"], found.json["correlationId"]) == ("DUPLICATE", name)


# Failures of the service


@pytest.mark.parametrize("path", [
    f"/v1/batches/{UNKNOWN}", f"/v1/batches/{UNKNOWN}:wait", "/v1/batches/x", "/v1/batches/a:b",
    "/v1/batches/x%20y:wait", "/v1/batches?user=bob", "/v1/batches?page_token=nonsense",
])  # fmt: skip
def test_a_call_that_fails(ours: Rest, theirs: Rest, path: str) -> None:
    assert agree(ours, theirs, "GET", path).status >= 400


@pytest.mark.parametrize("body", [
    {}, {"command": "a", "argv": ["b"]}, {"command": "true", "timeout": "-1s"}, {"command": "true", "output": 9},
    {"command": "true", "cwd": "relative"}, {"command": "true", "limits": {"cpuTime": "-3s"}},
])  # fmt: skip
def test_a_job_that_cannot_be_right(ours: Rest, theirs: Rest, body: Any) -> None:
    assert agree(ours, theirs, "POST", "/v1/job/schedule", body).status == 400


def test_a_job_of_a_batch_that_cannot_be_right(ours: Rest, theirs: Rest) -> None:
    found = agree(ours, theirs, "POST", "/v1/batches", b'{"command":"true"}\n{}\n')
    assert (found.status, found.violations) == (400, ["jobs[1].command"])
    assert agree(ours, theirs, "POST", "/v1/batches", b"").status == 400


def test_who_does_not_log_in_or_may_not(ours: Rest, theirs: Rest) -> None:
    for token in ("", "nonsense", f"{ours.token}x"):
        ours.token = theirs.token = token
        assert agree(ours, theirs, "GET", "/v1/batches").status == 401
    assert agree(ours, theirs, "POST", "/v1/auth/login", {"username": "alice", "password": "wrong"}).status == 401


def test_an_operator_is_no_administrator(ours: Rest, theirs: Rest) -> None:
    assert agree(ours, theirs, "GET", "/v1/admin/status").status == 403
    assert agree(ours, theirs, "POST", "/v1/admin/stop", {"kill": True}).status == 403
    assert agree(ours, theirs, "PATCH", "/v1/admin/config", {"values": {"jobs": {"running": 3}}}).status == 403


def test_a_deadline_that_passes(ours: Rest, theirs: Rest) -> None:
    batch = ours.submit("sleep 60")
    mine, other = both(ours, theirs, "GET", f"/v1/batches/{batch}:wait", grpc_timeout="50m")
    assert (mine.status, mine.json["code"]) == (other.status, other.json["code"]) == (504, 4)
    ours("POST", f"/v1/batches/{batch}:cancel", {"grace": "0s"})


# Requests that are none


@pytest.mark.parametrize("body", [
    b"{", b"[]", b'"x"', b"3", b"null", b'{"command":1}', b'{"command":"a","command":"b"}', b'{"timeout":"3"}',
    b'{"command":"x","argv":"y"}', b'{"argv":[null]}', b'{"argv":[1]}', b'{"limits":[]}',
    b'{"limits":{"openFiles":-1}}',
    b'{"limits":{"openFiles":4294967296}}', b'{"limits":{"openFiles":1.5}}', b'{"limits":{"openFiles":"x"}}',
    b'{"limits":{"openFiles":true}}', b'{"output":[]}', b'{"stdin":"*"}', b'{"stdin":3}',
    b'{"env":[]}', b'{"env":{"a":1}}', b'{"env":{"a":null}}', b'{"batch":{"failFast":"true"}}',
    b'{"batch":{"failFast":1}}',
    b'{"command":"\\ud800"}', b'{"command":"\xff"}', b'{"timeout":3}', b'{"timeout":{"seconds":3}}',
    b'{"limits":{"memoryBytes":"18446744073709551616"}}', b'{"limits":{"memoryBytes":NaN}}', b"[" * 100_000,
    b'{"command":"a" "b"}', b'{"command":"a",}', b"{'command':'a'}", b"\x00", b"\x1f\x8b",
])  # fmt: skip
def test_a_body_that_is_no_request(ours: Rest, theirs: Rest, body: bytes) -> None:
    agree_on_refusal(ours, theirs, "POST", "/v1/job/schedule", body)
    agree_on_refusal(ours, theirs, "POST", "/v1/batches", body.replace(b"\n", b" "))


@pytest.mark.parametrize(("query", "field"), [
    ("page_size=x", "page_size"), ("page_size=-1", "page_size"), ("page_size=1&page_size=2", "page_size"),
    ("page_size=", "page_size"), ("page_size=4294967296", "page_size"), ("page_size=1.5", "page_size"),
    ("page_size=0x1", "page_size"),
    ("state=NONE", "state"), ("state=", "state"),
])  # fmt: skip
def test_a_query_that_is_none(ours: Rest, theirs: Rest, query: str, field: str) -> None:
    assert agree_on_refusal(ours, theirs, "GET", f"/v1/batches?{query}").violations == [field]


def test_a_duration_is_as_in_json(ours: Rest, theirs: Rest, batch: str) -> None:
    for timeout in ("3", "s", "1.s2", "-", "1e3s", "%203s"):
        found = agree_on_refusal(ours, theirs, "GET", f"/v1/batches/{batch}:wait?timeout={timeout}")
        assert found.violations == ["timeout"]


def test_a_path_whose_index_is_no_number(ours: Rest, theirs: Rest, batch: str) -> None:
    for index in ("x", "-1", "1.5", "4294967296"):
        found = agree_on_refusal(ours, theirs, "GET", f"/v1/batches/{batch}/jobs/{index}/logs")
        assert found.violations == ["job_index"]


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/batches", "/v1/batches/a/b",
                                  f"/v1/batches/{UNKNOWN}/jobs/0/logs/", "/V1/batches"])  # fmt: skip
def test_a_path_that_is_none(ours: Rest, theirs: Rest, path: str) -> None:
    mine, other = both(ours, theirs, "GET", path)
    assert (mine.status, mine.json["code"]) == (other.status, other.json["code"]) == (404, 5)
    assert mine.json.keys() == other.json.keys()


# Deliberate differences, see docs/rest.md


def test_unknown_members_and_parameters_are_refused_where_the_gateway_drops_them(ours: Rest, theirs: Rest) -> None:
    mine, other = both(ours, theirs, "POST", "/v1/job/schedule", {"command": "true", "comand": "x", "a": {"b": 1}})
    assert (mine.status, other.status, mine.violations) == (400, 200, ["comand"])
    mine, other = both(ours, theirs, "GET", "/v1/batches?page_sise=1")
    assert (mine.status, other.status, mine.violations) == (400, 200, ["page_sise"])
    mine, other = both(ours, theirs, "POST", "/v1/job/schedule?name=x", {"command": "true"})
    assert (mine.status, other.status, mine.violations) == (400, 200, ["name"])


def test_text_behind_the_value_is_refused_where_the_gateway_does_not_look(ours: Rest, theirs: Rest) -> None:
    mine, other = both(ours, theirs, "POST", "/v1/job/schedule", b'{"command":"true"} nonsense')
    assert (mine.status, other.status) == (400, 200)


def test_a_wrong_method_is_405_with_allow_where_the_gateway_says_501(ours: Rest, theirs: Rest) -> None:
    mine, other = both(ours, theirs, "DELETE", "/v1/batches")
    assert (mine.status, other.status) == (405, 501)
    assert mine.json["code"] == other.json["code"] == 12
    assert mine.headers["allow"] == "GET, HEAD, POST"


def test_head_is_answered_where_the_gateway_says_501(ours: Rest, theirs: Rest) -> None:
    mine, other = both(ours, theirs, "HEAD", "/v1/batches?page_size=1")
    assert (mine.status, mine.body, other.status) == (200, b"", 501)


def test_another_media_type_is_415_where_the_gateway_takes_it_for_json(ours: Rest, theirs: Rest) -> None:
    body = json.dumps({"command": "true"}).encode()
    mine, other = both(ours, theirs, "POST", "/v1/job/schedule", body, content_type="text/plain")
    assert (mine.status, other.status) == (415, 200)
    assert mine.violations == ["content-type"]


def test_a_stream_that_fails_at_once_is_a_plain_status_where_the_gateway_wraps_it(ours: Rest, theirs: Rest) -> None:
    mine, other = both(ours, theirs, "GET", f"/v1/job/search?correlation_id={UNKNOWN}")
    assert mine.status == other.status == 404
    assert mine.json == other.json["error"]


def test_lines_have_their_own_media_type_where_the_gateway_says_json(ours: Rest, theirs: Rest, batch: str) -> None:
    mine, other = both(ours, theirs, "GET", f"/v1/batches/{batch}/jobs/0/logs")
    assert mine.headers["content-type"] == "application/x-ndjson"
    assert other.headers["content-type"] == "application/json"


def test_an_encoded_slash_is_a_part_of_its_segment_where_the_gateway_splits_there(ours: Rest, theirs: Rest) -> None:
    mine, other = both(ours, theirs, "GET", "/v1/batches/x%2Fy")
    assert (mine.status, other.status, mine.violations) == (400, 404, ["correlation_id"])


def test_a_duration_is_as_in_json_where_the_gateway_takes_gos_forms_too(ours: Rest, theirs: Rest, batch: str) -> None:
    for timeout in ("1m3s", ".5s", "1.0000000001s"):
        mine, other = both(ours, theirs, "GET", f"/v1/batches/{batch}:wait?timeout={timeout}")
        assert (mine.status, other.status) == (400, 200)


def test_a_verb_is_no_part_of_a_name_where_the_gateway_takes_it_for_one(ours: Rest, theirs: Rest, batch: str) -> None:
    mine, other = both(ours, theirs, "GET", f"/v1/batches/{batch}:cancel")
    assert (mine.status, mine.headers["allow"], other.status) == (405, "POST", 400)


def test_an_empty_segment_is_another_path_where_the_gateway_takes_it_for_a_name(ours: Rest, theirs: Rest) -> None:
    for path in ("/v1/batches/", "/v1/batches//jobs/0/logs"):
        mine, other = both(ours, theirs, "GET", path)
        assert (mine.status, other.status) == (404, 400)


def test_the_name_of_no_enums_value_is_refused_where_the_gateway_drops_it(ours: Rest, theirs: Rest) -> None:
    mine, other = both(ours, theirs, "POST", "/v1/job/schedule", {"command": "true", "output": "NONE"})
    assert (mine.status, other.status, mine.violations) == (400, 200, ["output"])


def test_a_request_that_is_too_large_is_413_where_the_gateway_says_429(ours: Rest, theirs: Rest) -> None:
    body = {"command": "true", "stdin": "AAAA" * (7 << 18)}
    mine, other = both(ours, theirs, "POST", "/v1/job/schedule", body)
    assert (mine.status, other.status) == (413, 429)
