"""A field that is given twice is refused and named, however it is spelled and wherever it stands."""

from __future__ import annotations

import pytest

from tests.harness.rest import Rest


@pytest.mark.parametrize("query", [
    "page_size=1&page_size=2", "page_size=1&pageSize=2", "pageSize=1&page_size=1",
])  # fmt: skip
def test_in_a_query(ours: Rest, query: str) -> None:
    answer = ours("GET", f"/v1/batches?{query}")
    assert (answer.status, answer.json["code"]) == (400, 3)
    assert answer.violations in (["page_size"], ["pageSize"])


@pytest.mark.parametrize(("body", "field"), [
    ('{"command":"true","command":"false"}', "command"),
    ('{"command":"true","cwd":"/","cwd":"/"}', "cwd"),
    ('{"command":"true","env":{"A":"1","A":"1"}}', 'env["A"]'),
    ('{"command":"true","limits":{"openFiles":1,"openFiles":2}}', "limits.open_files"),
    ('{"command":"true","limits":{"openFiles":1,"open_files":2}}', "limits.open_files"),
    ('{"command":"true","batch":{"labels":{"a":"1","a":"2"}}}', 'batch.labels["a"]'),
    ('{"command":"true","timeout":{"a":1,"a":2}}', "timeout.a"),
])  # fmt: skip
def test_in_a_body_or_a_line(ours: Rest, body: str, field: str) -> None:
    answer = ours("POST", "/v1/job/schedule", body.encode())
    assert (answer.status, answer.violations) == (400, [field])
    lines = b'{"command":"true"}\n' + body.encode()
    answer = ours("POST", "/v1/batches", lines, content_type="application/x-ndjson")
    assert (answer.status, answer.violations) == (400, [f"lines[1].{field}"])
