"""Which batches a listing is about, and where it need not look."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobworker.server.errors import InvalidRequestError
from jobworker.server.ids import CorrelationId
from jobworker.server.model import BatchState, BatchView
from jobworker.server.store.batchfilter import BatchFilter, canonical_prefix

DAY_MS = 86_400_000
LAST_MS = (1 << 48) - 1


@dataclass
class Header:
    correlation_id: CorrelationId
    accepted_at: int = 0
    name: str = ""
    labels: dict[str, str] = field(default_factory=dict)


@dataclass
class Stored:
    header: Header
    state: BatchState = BatchState.SUCCEEDED


def view(accepted_ms: int, **header: Any) -> BatchView:
    stored = Stored(Header(CorrelationId.make(accepted_ms), accepted_ms * 1_000_000, **header))
    return cast("BatchView", stored)


@given(
    st.integers(0, LAST_MS - 2 * DAY_MS),
    st.integers(-DAY_MS, DAY_MS),
    st.none() | st.integers(-1000, 1000),
    st.none() | st.integers(-1000, 1000),
    st.integers(0, 36),
)
def test_what_is_taken_lies_between_the_bounds(
    accepted_ms: int, client_ahead_ms: int, since: int | None, until: int | None, digits: int
) -> None:
    batch = view(accepted_ms)
    named = CorrelationId.make(max(0, accepted_ms + client_ahead_ms))  # by a client with a clock of its own
    batch.header.correlation_id = named
    wanted = BatchFilter(
        id_prefix=named[:digits],
        since_ns=None if since is None else batch.header.accepted_at + since,
        until_ns=None if until is None else batch.header.accepted_at + until,
    )
    taken = wanted.takes(batch)
    assert taken == ((since is None or since <= 0) and (until is None or until > 0))
    if taken:
        assert wanted.first <= named < wanted.behind


def test_each_part_has_to_fit() -> None:
    batch = view(1_800_000_000_000, name="nightly", labels={"team": "a", "tier": "1"})
    assert BatchFilter().takes(batch)
    for wanted in (
        BatchFilter(name="nightly"),
        BatchFilter(labels={"team": "a", "tier": "1"}),
        BatchFilter(states=frozenset({BatchState.SUCCEEDED, BatchState.RUNNING})),
    ):
        assert wanted.takes(batch)
    for wanted in (
        BatchFilter(name="night"),
        BatchFilter(labels={"team": "a", "tier": "2"}),
        BatchFilter(labels={"team": "a", "x": ""}),
        BatchFilter(states=frozenset({BatchState.FAILED})),
        BatchFilter(id_prefix="f"),
    ):
        assert not wanted.takes(batch)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        ("0193", "0193"),
        ("019312D4-5", "019312d4-5"),
        ("019312d4-", "019312d4"),
        ("019312d45", "019312d4-5"),
        ("019312d45c007abc8def0123456789ab", "019312d4-5c00-7abc-8def-0123456789ab"),
    ],
)
def test_a_prefix_is_taken_in_either_case_and_with_or_without_dashes(text: str, canonical: str) -> None:
    assert canonical_prefix(text) == canonical


@pytest.mark.parametrize("text", ["x", "-", "0193 ", "019312d45c007abc8def0123456789abc", "0193\0"])
def test_what_no_id_begins_with_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="is not the beginning of a UUIDv7"):
        canonical_prefix(text)
