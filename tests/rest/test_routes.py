"""Path templates, routes, places and fields, one by one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.api import http_pb2
from google.protobuf import descriptor_pb2, json_format, struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from jobworker.server.errors import InvalidRequestError
from jobworker.server.rest import decode, encode, query, routes
from jobworker.server.rest.resume import ResumeToken
from jobworker.server.rest.template import Template
from jobworker.v1 import admin_pb2, job_pb2, query_pb2, schedule_pb2


@pytest.mark.parametrize(("template", "path", "variables"), [
    ("/v1/batches", "/v1/batches", {}),
    ("/v1/batches", "/v1/batches/", None),
    ("/v1/{a}", "/v1/x", {"a": "x"}),
    ("/v1/{a}", "/v1/x%2Fy%20z", {"a": "x/y z"}),
    ("/v1/{a}", "/v1/x/y", None),
    ("/v1/{a}", "/v1/", None),
    ("/v1/{a}:go", "/v1/x:go", {"a": "x"}),
    ("/v1/{a}:go", "/v1/x:y:go", {"a": "x:y"}),
    ("/v1/{a}:go", "/v1/x:went", None),
    ("/v1/{a=shelves/*}/b/{c.d}", "/v1/shelves/1/b/2", {"a": "shelves/1", "c.d": "2"}),
    ("/v1/{a=**}", "/v1/x/y/z", {"a": "x/y/z"}),
    ("/v1/*/b.c", "/v1/x/b.c", {}),
    ("/v1/*/b.c", "/v1/x/bxc", None),
])  # fmt: skip
def test_templates_match_as_their_grammar_says(template: str, path: str, variables: dict[str, str] | None) -> None:
    assert Template.parse(template).match(path) == variables


@pytest.mark.parametrize("text", ["v1", "/v1/{", "/v1/{a", "/v1/{A}", "/v1/}a{"])
def test_a_template_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="template"):
        Template.parse(text)


def test_an_annotation_that_names_no_field_is_refused_with_its_method() -> None:
    method = query_pb2.DESCRIPTOR.services_by_name["JobQueryService"].methods_by_name["GetBatch"]
    handler = grpc.unary_unary_rpc_method_handler(lambda _request, _context: None)
    found = routes.Method(name="/x/GetBatch", descriptor=method, handler=handler)
    for rule in (http_pb2.HttpRule(get="/v1/{nothing}"), http_pb2.HttpRule(post="/v1", body="nothing"),
                 http_pb2.HttpRule(get="/v1", response_body="nothing"), http_pb2.HttpRule()):  # fmt: skip
        with pytest.raises(ValueError, match="/x/GetBatch"):
            routes._route(rule, found)
    custom = http_pb2.HttpRule(custom=http_pb2.CustomHttpPattern(kind="LIST", path="/v1"), response_body="user")
    assert routes._route(custom, found).verb == "LIST"


def filled(message: Any, value: Any) -> Any:
    """The message, from a JSON value."""
    decode.fill(message, value, "")
    return message


def refused(act: Callable[[], object]) -> str:
    """The field that is at fault."""
    with pytest.raises(InvalidRequestError) as caught:
        act()
    (violation,) = caught.value.violations
    return violation.field


def test_structs_masks_and_values_are_read_as_json_has_them() -> None:
    found = filled(
        admin_pb2.UpdateConfigRequest(),
        {"values": {"jobs": {"running": 3, "path": None}, "list": [1, {"a": []}]}, "updateMask": "jobs.running,a"},
    )
    assert found.values["jobs"]["running"] == 3
    assert found.update_mask.paths == ["jobs.running", "a"]
    entry = filled(admin_pb2.ConfigEntry(), {"value": None})
    assert entry.value.WhichOneof("kind") == "null_value"
    assert encode.to_object(entry)["value"] is None


@pytest.mark.parametrize(("value", "field"), [
    ({"limits": {"memory": 1}}, "limits.memory"), ({"limits": {"cpuTime": 3}}, "limits.cpu_time"),
    ({"argv": ["a", 3]}, "argv[1]"), ({"env": {"A": 3}}, 'env["A"]'), ({"batch": {"labels": 3}}, "batch.labels"),
    ({"batch": {"labels": {"a": {}}}}, 'batch.labels["a"]'), ({"command": "a", "batch": [1]}, "batch"),
    ({"fail_fast": True}, "fail_fast"), ([], "body"), ({"timeout": "3m"}, "timeout"),
    ({"timeout": "99999999999999s"}, "timeout"),
])  # fmt: skip
def test_what_is_wrong_with_a_body_is_named_by_its_path(value: Any, field: str) -> None:
    assert refused(lambda: filled(schedule_pb2.JobRequest(), value)) == field


def test_both_spellings_of_a_name_are_one_field() -> None:
    assert (
        refused(lambda: filled(schedule_pb2.CancelBatchRequest(), {"jobIndex": [1], "job_index": [2]})) == "job_index"
    )
    assert refused(lambda: filled(job_pb2.Job(), {"exitCode": 1, "signal": 2})) == "signal"


def test_deep_nesting_is_refused_and_not_a_crash() -> None:
    deep: Any = {}
    for _ in range(200):
        deep = {"a": deep}
    assert refused(lambda: filled(admin_pb2.UpdateConfigRequest(), {"values": deep})) == "values"
    assert refused(lambda: decode.parse(b'{"a":' * 100_000, "body")) == "body"


QUERY = [
    ([("limits.memory_bytes", "5"), ("limits.cpuTime", "1.5s")], {"limits": {"memoryBytes": "5", "cpuTime": "1.500s"}}),
    ([("argv", "a"), ("argv", "b c")], {"argv": ["a", "b c"]}),
    ([("env[A]", "1"), ("env[B.c]", "")], {"env": {"A": "1", "B.c": ""}}),
    ([("output", "2"), ("stdin", "_-8=")], {"output": "OUTPUT_MODE_SEPARATE", "stdin": "/+8="}),
    ([("batch.failFast", "True"), ("batch.labels[a]", "b")], {"batch": {"failFast": True, "labels": {"a": "b"}}}),
    ([("command", "path wins")], {}),
]


@pytest.mark.parametrize(("parameters", "value"), QUERY)
def test_a_query_sets_nested_repeated_and_map_fields(parameters: list[tuple[str, str]], value: Any) -> None:
    message = schedule_pb2.JobRequest()
    query.put_query(message, parameters, bound=["command"])
    assert json_format.MessageToDict(message) == value


@pytest.mark.parametrize("name", [
    "x", "limits", "limits.x", "limits.memory_bytes.x", "env", "argv.x", "timeout.seconds", "batch", "argv[0]", "", ".",
    "limits.", "[a]", "command[a]",
])  # fmt: skip
def test_a_parameter_that_can_set_nothing_is_named(name: str) -> None:
    assert refused(lambda: query.put_query(schedule_pb2.JobRequest(), [(name, "1")], bound=[])) == (name or "query")


def test_a_path_converts_to_its_fields_type_and_wins_over_the_body() -> None:
    message = query_pb2.LogCursor(job_index=3, offset=4)
    query.put_path(message, {"job_index": "7", "stream": "LOG_STREAM_STDERR"})
    assert message == query_pb2.LogCursor(job_index=7, offset=4, stream=job_pb2.LOG_STREAM_STDERR)
    assert refused(lambda: query.put_path(message, {"job_index": "x"})) == "job_index"


JSON_NAMES = st.sampled_from(["command", "argv", "env", "cwd", "stdin", "timeout", "limits", "output", "batch", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(JSON_NAMES | st.text(), inner),
)


@given(VALUES | st.dictionaries(JSON_NAMES, VALUES))
def test_whatever_is_sent_is_read_or_refused(value: Any) -> None:
    try:
        text = json.dumps(value).encode()
        found = filled(schedule_pb2.JobRequest(), decode.parse(text, "body"))
    except InvalidRequestError:
        return
    again = filled(schedule_pb2.JobRequest(), encode.to_object(found))
    assert again == found


@given(st.binary(), st.floats(allow_nan=False, allow_infinity=False), st.text(), st.integers(-(2**31), 2**31 - 1))
def test_what_is_written_is_read_again(data: bytes, number: float, text: str, enum: int) -> None:
    value = struct_pb2.Value(number_value=number if math.isfinite(number) else 0.0)
    for message in (
        schedule_pb2.JobRequest(stdin=data, command=text, output=enum, env={text: text}),
        admin_pb2.ConfigEntry(key=text, value=value),
        job_pb2.Job(exit_code=enum),
    ):
        written = encode.to_bytes(encode.to_object(message))
        assert filled(type(message)(), decode.parse(written, "body")) == message


LOGS = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 9)), max_size=60)


@given(LOGS, st.integers(0, 60))
def test_a_place_is_read_as_it_was_written(steps: list[tuple[int, bool, int]], cut: int) -> None:
    """A client that comes back with an id is sent what one would have been that had stayed."""
    place, offsets, ended = ResumeToken(), dict.fromkeys(range(6), 0), set()
    for index, end, length in steps[:cut]:
        if index in ended:
            continue
        chunk = query_pb2.LogChunk(job_index=index, stream=job_pb2.LOG_STREAM_MERGED, offset=offsets[index])
        if end:
            ended.add(index)
            chunk.end.total_bytes = offsets[index]
        else:
            chunk.data = b"x" * length
            offsets[index] += length
        assert place.take(chunk)
    text = place.event_id()
    assert text is not None
    again = ResumeToken.parse(text)
    assert again.event_id() is not None
    request = query_pb2.StreamLogsRequest(tail_bytes=3)
    assert again.apply(request, 6) == (len(ended) < 6)
    if len(ended) < 6:
        assert set(request.job_index or range(6)) == set(range(6)) - ended
        assert {c.job_index: c.offset for c in request.cursors if c.offset} == {
            index: offset for index, offset in offsets.items() if offset and index not in ended
        }
        assert request.tail_bytes == 0


def test_an_id_that_would_be_too_long_is_left_out() -> None:
    place = ResumeToken()
    for index in range(0, 4000, 2):
        end = query_pb2.LogEnd(total_bytes=0)
        assert place.take(query_pb2.LogChunk(job_index=index, stream=job_pb2.LOG_STREAM_MERGED, end=end))
    assert place.event_id() is None
    for index in range(1, 4000, 2):
        end = query_pb2.LogEnd(total_bytes=0)
        place.take(query_pb2.LogChunk(job_index=index, stream=job_pb2.LOG_STREAM_MERGED, end=end))
    assert place.event_id() == "0-3999;"


def test_the_clients_own_cursors_give_way_to_those_of_its_last_event() -> None:
    request = query_pb2.StreamLogsRequest(job_index=[3, 4], offset=0)
    request.cursors.add(job_index=3, offset=1)
    request.cursors.add(job_index=4, offset=2)
    assert ResumeToken.parse(";3.1=10").apply(request, 9)
    assert [(c.job_index, c.offset) for c in request.cursors] == [(3, 10), (4, 2)]
    one = query_pb2.StreamLogsRequest(job_index=[3], offset=5)
    assert ResumeToken.parse("0;").apply(one, 9)
    assert (one.offset, [(c.job_index, c.offset) for c in one.cursors]) == (0, [(3, 5)])


def test_the_descriptor_of_any_message_can_be_written() -> None:
    """Nested, repeated, with defaults of proto2: the form is protobuf's own where we have none."""
    message = descriptor_pb2.FileDescriptorProto(name="x", message_type=[descriptor_pb2.DescriptorProto(name="y")])
    written = encode.to_object(message)
    assert (written["name"], written["options"]) == ("x", None)
    assert written["messageType"][0]["name"] == "y"
