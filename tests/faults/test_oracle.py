"""The oracle notices each kind of violation: a history without one is given one, and is found out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.history import Batch, Death, Died, History, JobState, Kind, Shown, Submission
from tests.faults.oracle import judge
from tests.faults.recorded import LOST, SPOILED, TAG, ends_as, good_history, is_killed, never_started


@pytest.fixture
def history() -> History:
    """Not spoiled yet."""
    return good_history()


def kinds(history: History) -> set[Kind]:
    """What it is accused of."""
    return {violation.kind for violation in judge(history)}


def test_a_history_in_which_all_went_well_is_accused_of_nothing(history: History) -> None:
    assert judge(history) == []


def test_a_job_that_its_executor_took_along_may_be_lost_with_a_part_of_its_output(history: History) -> None:
    is_killed(history)
    assert judge(history) == []


def test_as_many_lost_jobs_as_ran_at_a_time_may_have_left_no_mark_and_are_counted(history: History) -> None:
    history.deaths.append(Died(Death.EXECUTOR, 15, 15.5, 16))
    never_started(history, 0, 1)
    assert judge(history) == []
    assert history.undecided_lost == {(TAG, 0), (TAG, 1)}


def test_a_lost_job_that_had_reached_its_end_had_left_its_place_to_another(history: History) -> None:
    history.deaths.append(Died(Death.EXECUTOR, 15, 15.5, 16))
    ends_as(history, LOST, index=0)
    never_started(history, 1, 2)
    assert judge(history) == []
    history.marks.ended[TAG, 0] = 0
    assert kinds(history) == {Kind.LOST_UNSTARTED}


def test_where_the_machine_died_jobs_that_were_ordered_ahead_may_be_lost(history: History) -> None:
    history.deaths.append(Died(Death.EXECUTOR, 15, 15.5, 16))
    history.batches[TAG].parallelism = 1
    never_started(history, 0, 1, 2)
    assert kinds(history) == {Kind.LOST_UNSTARTED}
    history.deaths[-1].kind = Death.MACHINE
    assert judge(history) == []


def test_what_was_cancelled_may_be_cancelled_or_skipped(history: History) -> None:
    history.batches[TAG].cancelled = {0, 1}
    ends_as(history, JobState("CANCELLED", "CANCELLED", ("signal", 15)), index=0)
    never_started(history, 1)
    ends_as(history, JobState("SKIPPED", "CANCELLED"), index=1)
    assert judge(history) == []


def test_a_call_that_began_before_the_end_was_shown_may_tell_of_the_time_before(history: History) -> None:
    late = Shown(TAG, 19.9, 21.0, "SearchJob", index=0, job=JobState("RUNNING"))
    history.show(late, Shown(TAG, 19.9, 21.0, "GetBatch", batch_state="RUNNING", counts=(("running", 3),)))
    assert judge(history) == []


def test_a_batch_that_got_no_answer_and_did_not_run_is_no_violation(history: History) -> None:
    history.batches["other"] = Batch("other", [], 2, 30.0, submission=Submission.UNKNOWN)
    assert judge(history) == []


def test_after_a_power_failure_a_log_may_have_gaps_and_all_else_must_be_right(history: History) -> None:
    history.deaths.append(Died(Death.MACHINE, 25, 25.5, 26))
    for logs in (history.readings[TAG], history.follows[0].logs):
        log = logs[0]
        log.pieces.pop()
        log.gaps.append((7, log.offset - 7))
    assert judge(history) == []
    history.deaths.clear()
    assert kinds(history) == {Kind.WRONG_LOG, Kind.FOLLOWER_DIFFERS}


@pytest.mark.parametrize(("spoil", "kind"), SPOILED)
def test_a_violation_is_noticed_and_called_by_its_name(
    history: History, spoil: Callable[[History], None], kind: Kind
) -> None:
    spoil(history)
    assert kind in kinds(history)


def test_every_kind_that_a_history_can_show_is_tried() -> None:
    elsewhere = {Kind.DAMAGED_RESULTS, Kind.LEAKED_DESCRIPTORS, Kind.NOT_BACK}
    assert {kind for _, kind in SPOILED} | elsewhere == set(Kind)
