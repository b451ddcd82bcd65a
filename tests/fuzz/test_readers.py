"""Each reader of tests/fuzz, a bounded number of times and always with the same bytes; and what broke one once."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.bytes import anything
from tests.fuzz.targets import TARGETS, run


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_a_refusal_comes_of_any_bytes(name: str) -> None:
    seeds = list(TARGETS[name].seeds())
    for good in seeds:
        TARGETS[name].read(good)

    @settings(max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(data=st.one_of(anything(seeds)))
    def once(data: bytes) -> None:
        run(TARGETS[name], data)

    once()
