"""Trace ids, and what a caller says of its own."""

from __future__ import annotations

import pytest

from jobworker.server.ids import CorrelationId
from jobworker.server.telemetry import tracecontext
from jobworker.server.telemetry.sampling import Sampler
from jobworker.server.telemetry.tracecontext import Part, Remote, parse, remote_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
WELL = f"00-{TRACE}-{SPAN}-01"


def batches(count: int) -> list[CorrelationId]:
    return [CorrelationId.make(1_750_000_000_000 + i) for i in range(count)]


def test_a_span_has_the_same_id_in_every_life_of_the_server_and_no_other_has_it() -> None:
    batch = CorrelationId("01a21306-0c8c-7763-9712-ad3b822d6d3a")
    assert tracecontext.span_id(batch, Part.RUN, 2) == 0x981780BF74877724  # as it has ever been
    ids = {tracecontext.span_id(one, part, index) for one in batches(20) for part in Part for index in range(50)}
    assert len(ids) == 20 * len(Part) * 50
    assert 0 not in ids


def test_a_job_is_told_its_span_in_its_batchs_trace() -> None:
    (batch,) = batches(1)
    told = tracecontext.job_traceparent(batch, 7, sampled=True)
    assert parse(told) == Remote(int(batch.trace_id, 16), tracecontext.span_id(batch, Part.RUN, 7), True)
    assert tracecontext.job_traceparent(batch, 7, sampled=False) == told[:-2] + "00"


def test_what_a_caller_says_is_understood() -> None:
    assert remote_of([("other", "x"), ("traceparent", WELL), ("tracestate", "a=1"), ("tracestate", "b=2")]) == Remote(
        int(TRACE, 16), int(SPAN, 16), True, "a=1,b=2"
    )
    assert parse(f"00-{TRACE}-{SPAN}-00") == Remote(int(TRACE, 16), int(SPAN, 16), False)
    later = parse(f"cc-{TRACE}-{SPAN}-01-what-comes-later")
    assert later is not None
    assert later.sampled


@pytest.mark.parametrize("said", [
    "", "00", "nonsense", WELL[:-1], WELL + "-more", WELL.upper(), WELL.replace("-", ""), f"ff-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE[:-1]}g-{SPAN}-01", "0" * 100_000,
])  # fmt: skip
def test_what_is_not_of_the_form_is_ignored(said: str) -> None:
    assert parse(said) is None


def test_two_of_them_are_none() -> None:
    assert remote_of([("traceparent", WELL), ("traceparent", WELL)]) is None


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_ratio_holds_for_correlation_ids_which_are_not_random_throughout(ratio: float) -> None:
    sampler = Sampler({})
    sampler.configure(ratio)
    kept = sum(map(sampler.keeps_batch, batches(20_000)))
    assert kept / 20_000 == pytest.approx(ratio, abs=0.03)


def test_whoever_asks_again_is_answered_the_same_and_a_larger_ratio_keeps_what_a_smaller_one_did() -> None:
    some = batches(2000)
    kept = []
    for ratio in (0.2, 0.2, 0.6):
        sampler = Sampler({})
        sampler.configure(ratio)
        kept.append({batch for batch in some if sampler.keeps_batch(batch)})
    assert kept[0] == kept[1] < kept[2]


@pytest.mark.parametrize(("environment", "ratio", "remote_kept", "remote_dropped"), [
    ({}, 1, True, False),
    ({"OTEL_TRACES_SAMPLER": "always_on"}, 1, True, True),
    ({"OTEL_TRACES_SAMPLER": "always_off"}, 0, False, False),
    ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, 0, True, False),
    ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, 0.25, True, False),
    ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, 0, False, False),
    ({"OTEL_TRACES_SAMPLER": "traceidratio"}, 1, True, True),
])  # fmt: skip
def test_the_environment_says_the_ratio_where_the_configuration_does_not(
    environment: dict[str, str], ratio: float, remote_kept: bool, remote_dropped: bool
) -> None:
    sampler = Sampler(environment)
    some = batches(4000)
    assert sum(map(sampler.keeps_batch, some)) / 4000 == pytest.approx(ratio, abs=0.04)
    assert sampler.follows(Remote(int(TRACE, 16), 1, True)) is remote_kept
    assert sampler.follows(Remote(int(TRACE, 16), 1, False)) is remote_dropped
    assert not sampler.problem
    sampler.configure(1.0)
    assert all(map(sampler.keeps_batch, some))
    sampler.configure(None)
    assert sum(map(sampler.keeps_batch, some)) / 4000 == pytest.approx(ratio, abs=0.04)


@pytest.mark.parametrize("environment", [
    {"OTEL_TRACES_SAMPLER": "dice"}, {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "many"},
    {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1.5"},
])  # fmt: skip
def test_what_cannot_be_a_sampler_is_told_and_everything_kept(environment: dict[str, str]) -> None:
    sampler = Sampler(environment)
    assert sampler.problem
    assert all(map(sampler.keeps_batch, batches(100)))
