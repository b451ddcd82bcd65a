"""Overview: is the service well, and if not, which part of it."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from boards.parts import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    SERVICE,
    Query,
    board,
    figure,
    graph,
    quantiles,
    rate,
    row,
)
from boards.resources import disk, executor, machine, process

# Streams and WaitBatch last as long as what they wait for.
_SHORT_CALLS = f'{SERVICE}, grpc_type="unary", grpc_method!="WaitBatch"'
_NOT_OK = f'{SERVICE}, grpc_code!="OK"'
_NOT_EXITED = f'{SERVICE}, reason!="exited"'
_UP = {"1": ("up", GREEN), "0": ("DOWN", RED)}
_CALM = [(None, GREEN)]
_PLAIN = [(None, BLUE)]


def build() -> dashboard.Dashboard:
    """The dashboard."""
    made = board(
        "Jobworker / Overview",
        "jobworker-overview",
        "Calls (rate, errors, duration), jobs, queue and executor, process, disk and machine (use, saturation).",
    )
    for add in (_glance, _calls, _jobs, _queue, _output, process, disk, executor, machine):
        made = add(made)
    return made


def _glance(made: dashboard.Dashboard) -> dashboard.Dashboard:
    panels = [
        figure(
            "Service",
            "Whether it takes batches: serving, draining (told to stop, jobs still run) or stopped.",
            Query(f"jobworker_service_state{{{SERVICE}}} == 1", "{{state}}"),
            unit="none", steps=_CALM, names=True,
        ),
        figure(
            "Executor",
            "Whether an executor is attached. Without one batches are taken, and no job starts.",
            Query(f"min(jobworker_executor_up{{{SERVICE}}})"),
            unit="none", steps=[(None, RED), (1, GREEN)], words=_UP,
        ),
        figure(
            "Alerts firing",
            "Alerts of the service that fire now; docs/runbooks.md says what to do.",
            Query('count(ALERTS{alertstate="firing", alertname=~"Jobworker.+"}) or vector(0)'),
            unit="none", steps=[(None, GREEN), (1, RED)],
        ),
        figure(
            "Running jobs",
            "Jobs that run now; jobs.running is the most there may be.",
            Query(f"sum(jobworker_jobs_running{{{SERVICE}}})"),
            unit="short", steps=_PLAIN,
        ),
        figure(
            "Queued jobs",
            "Jobs that were accepted and have not started.",
            Query(f"sum(jobworker_jobs_queued{{{SERVICE}}})"),
            unit="short", steps=_PLAIN,
        ),
        figure(
            "Longest wait",
            "Age of the oldest batch that has queued jobs.",
            Query(f"max(jobworker_jobs_oldest_queued_seconds{{{SERVICE}}})"),
            unit="s", steps=[(None, GREEN), (600, ORANGE), (3600, RED)],
        ),
        figure(
            "Failing jobs",
            "Of the jobs that ended within 15 minutes, those that failed, timed out or were lost; cancelled apart.",
            Query(f"max(jobworker:jobs_failed:ratio_increase15m{{{SERVICE}}})"),
            unit="percentunit", steps=[(None, GREEN), (0.2, ORANGE), (0.5, RED)],
        ),
        figure(
            "Failing calls",
            "Calls of the last five minutes that failed by the service's own fault.",
            Query(f"max(jobworker:calls_failed:ratio_rate5m{{{SERVICE}}})"),
            unit="percentunit", steps=[(None, GREEN), (0.001, ORANGE), (0.01, RED)],
        ),
        figure(
            "Unfinished batches",
            "Batches with a job that is not final; a restart reads these.",
            Query(f"sum(jobworker_batches_unfinished{{{SERVICE}}})"),
            unit="short", steps=_PLAIN,
        ),
        figure(
            "Isolation",
            "Whether jobs run in namespaces of their own; without, they see what the executor's user sees.",
            Query(f"min(jobworker_executor_isolated{{{SERVICE}}})"),
            unit="none", steps=[(None, ORANGE), (1, GREEN)], words={"1": ("own", GREEN), "0": ("none", ORANGE)},
        ),
        figure(
            "Server up for",
            "Time since the server process started. Jobs outlive it, so a small number is no harm by itself.",
            Query(f"time() - max(process_start_time_seconds{{{SERVICE}}})"),
            unit="s", steps=_PLAIN,
        ),
        figure(
            "Version",
            "Of jobworker, on the server.",
            Query(f"jobworker_build_info{{{SERVICE}}}", "{{version}}"),
            unit="none", steps=_PLAIN, names=True,
        ),
    ]  # fmt: skip
    return row(made, "At a glance", panels)


def _calls(made: dashboard.Dashboard) -> dashboard.Dashboard:
    panels = [
        graph(
            "Calls",
            "Calls that ended, by method; REST calls are among them.",
            Query(rate("grpc_server_handled_total", by="grpc_method"), "{{grpc_method}}"),
            unit="reqps", stacked=True,
        ),
        graph(
            "Refused and failed calls",
            "By status. InvalidArgument, NotFound and so on are the callers'; Internal, Unknown and DataLoss are ours.",
            Query(rate("grpc_server_handled_total", by="grpc_code", selector=_NOT_OK), "{{grpc_code}}"),
            unit="reqps", stacked=True,
        ),
        graph(
            "Duration",
            "Of unary calls but WaitBatch, which lasts as long as what it waits for. A dot opens its trace.",
            *quantiles("grpc_server_handling_seconds", selector=_SHORT_CALLS),
            unit="s", steps=[(None, GREEN), (0.5, ORANGE)],
        ),
        graph(
            "Duration by method",
            "What 95 of 100 calls stay below.",
            *quantiles("grpc_server_handling_seconds", by="grpc_method", selector=_SHORT_CALLS, shares=[0.95]),
            unit="s",
        ),
        graph(
            "Calls under way",
            "Calls that have not ended, open streams included, and of these the ones that follow a log.",
            Query(f"sum(jobworker_calls_under_way{{{SERVICE}}})", "calls"),
            Query(f"sum(jobworker_followers{{{SERVICE}}})", "followers"),
            unit="short",
        ),
        graph(
            "Started and ended",
            "When calls start faster than they end, they pile up.",
            Query(rate("grpc_server_started_total"), "started"),
            Query(rate("grpc_server_handled_total"), "ended"),
            unit="reqps",
        ),
    ]  # fmt: skip
    return row(made, "Calls: rate, errors, duration", panels)


def _jobs(made: dashboard.Dashboard) -> dashboard.Dashboard:
    panels = [
        graph(
            "Jobs by outcome",
            "Jobs that became final, a second.",
            Query(rate("jobworker_jobs_finished_total", by="state"), "{{state}}"),
            unit="ops", stacked=True,
        ),
        graph(
            "Ends that were not the job's own",
            "Why jobs ended, but for an exit code. spawn_failed, executor_lost, memory, disk_full are the operator's.",
            Query(rate("jobworker_jobs_finished_total", by="reason", selector=_NOT_EXITED), "{{reason}}"),
            unit="ops", stacked=True,
        ),
        graph(
            "Batches",
            "Accepted, and finished by outcome, a second.",
            Query(rate("jobworker_batches_accepted_total"), "accepted"),
            Query(rate("jobworker_batches_finished_total", by="state"), "{{state}}"),
            unit="ops",
        ),
        graph(
            "Run time",
            "From a job's start to its end. A dot opens the batch's trace.",
            *quantiles("jobworker_job_run_seconds"),
            unit="s", width=12,
        ),
        graph(
            "Spawn time",
            "From the order to a running process, as the executor sees it.",
            *quantiles("jobworker_job_spawn_seconds"),
            unit="s", width=12, steps=[(None, GREEN), (0.1, ORANGE)],
        ),
    ]  # fmt: skip
    return row(made, "Jobs", panels)


def _queue(made: dashboard.Dashboard) -> dashboard.Dashboard:
    panels = [
        graph(
            "Jobs in, started, ended",
            "Submitted above started means a growing queue.",
            Query(rate("jobworker_jobs_submitted_total"), "submitted"),
            Query(rate("jobworker_jobs_started_total"), "started"),
            Query(rate("jobworker_jobs_finished_total"), "ended"),
            unit="ops",
        ),
        graph(
            "Queued and running",
            "Queued jobs by the role of who submitted them, and all that run.",
            Query(f"sum by (role) (jobworker_jobs_queued{{{SERVICE}}})", "queued, {{role}}"),
            Query(f"sum(jobworker_jobs_running{{{SERVICE}}})", "running"),
            unit="short",
        ),
        graph(
            "Queue wait",
            "From a batch's acceptance to a job's start. A dot opens the batch's trace.",
            *quantiles("jobworker_job_queue_wait_seconds"),
            unit="s",
        ),
    ]  # fmt: skip
    return row(made, "Queue", panels)


def _output(made: dashboard.Dashboard) -> dashboard.Dashboard:
    panels = [
        graph(
            "Output of jobs",
            "What jobs wrote into their logs, and what was sent to followers.",
            Query(rate("jobworker_log_written_bytes_total"), "written"),
            Query(rate("jobworker_log_streamed_bytes_total"), "streamed"),
            unit="Bps", width=12,
        ),
        graph(
            "Output dropped",
            "Bytes that could not be kept, by reason. Followers see a gap there.",
            Query(rate("jobworker_log_dropped_bytes_total", by="reason"), "{{reason}}"),
            unit="Bps", width=12, steps=[(None, GREEN), (1, ORANGE)],
        ),
    ]  # fmt: skip
    return row(made, "Output", panels)
