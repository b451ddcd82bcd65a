"""The figures of a real service under real batches, as Prometheus' own parser and tool read them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import grpc
import pytest
from prometheus_client import parser

from jobworker.server.telemetry.names import ALL
from jobworker.v1 import job_pb2, query_pb2, schedule_pb2
from tests.harness import figures
from tests.harness.admin import Admin
from tests.harness.figures import Figures, scrape, scrape_plain, until_value
from tests.harness.prometheus import prometheus_programs
from tests.harness.service import Service, running
from tests.harness.wait import kill, until

MIXED = ("echo fine", "exit 3", "kill -9 $$", "printf 12345")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory):
    """A service that the tests of this file share: each looks at what it added."""
    with running(tmp_path_factory.mktemp("metrics") / "service") as service:
        until(lambda: figures.ready(service.metrics_port)[0] == 200, "it is ready")
        until(lambda: scrape(service.metrics_port).of("jobworker_store_bytes"), "its store is counted")
        yield service


def grown(before: Figures, after: Figures, name: str, **labels: str) -> float:
    return after.sum(name, **labels) - before.sum(name, **labels)


def settled(service: Service, before: Figures, batches: int) -> Figures:
    """Once so many more batches have finished."""
    wanted = before.sum("jobworker_batches_finished_total") + batches
    return until_value(service, "jobworker_batches_finished_total", wanted)


def test_jobs_and_batches_are_counted_by_their_ends(own: Service) -> None:
    api, before = own.api(), scrape(own.metrics_port)
    missing = schedule_pb2.JobRequest(argv=["/no/such/program"])
    api.wait(api.submit(*MIXED, missing))
    api.wait(api.submit("true"))
    after = settled(own, before, 2)
    ends = "jobworker_jobs_finished_total"
    assert grown(before, after, ends, state="succeeded", reason="exited") == 3
    assert grown(before, after, ends, state="failed", reason="exited") == 1
    assert grown(before, after, ends, state="failed", reason="signalled") == 1
    assert grown(before, after, ends, state="failed", reason="spawn_failed") == 1
    assert grown(before, after, ends) == grown(before, after, "jobworker_jobs_submitted_total") == 6
    assert grown(before, after, "jobworker_jobs_started_total") == 5
    assert grown(before, after, "jobworker_batches_accepted_total") == 2
    assert grown(before, after, "jobworker_batches_finished_total", state="failed") == 1
    assert grown(before, after, "jobworker_batches_finished_total", state="succeeded") == 1
    assert grown(before, after, "jobworker_job_queue_wait_seconds_count") == 6
    assert grown(before, after, "jobworker_job_run_seconds_count") == 5
    assert grown(before, after, "jobworker_job_spawn_seconds_count") == 5
    assert grown(before, after, "jobworker_job_spawn_seconds_sum") > 0
    assert grown(before, after, "jobworker_log_written_bytes_total") == len("fine\n12345")
    assert grown(before, after, "jobworker_fsync_seconds_count") >= 4


def test_exemplars_are_the_trace_ids_of_batches_and_in_openmetrics_alone(own: Service) -> None:
    api, before = own.api(), scrape(own.metrics_port)
    batch = api.submit("true")
    api.wait(batch)
    after = settled(own, before, 1)
    trace_id = batch.replace("-", "")
    for name in ("jobworker_job_queue_wait_seconds", "jobworker_job_run_seconds", "jobworker_job_spawn_seconds",
                 "grpc_server_handling_seconds"):  # fmt: skip
        assert trace_id in after.trace_ids(name), name
    assert trace_id not in figures.text(own.metrics_port)


def test_skipped_and_cancelled_jobs_are_counted_and_what_waits_is_told_by_role(own: Service) -> None:
    api, before = own.api(), scrape(own.metrics_port)
    batch = api.submit(*["sleep 600"] * 5, batch=job_pb2.BatchOptions(parallelism=2))
    now = until_value(own, "jobworker_jobs_running", 2)
    assert now.value("jobworker_jobs_queued", role="operator") == 3
    assert now.value("jobworker_jobs_queued", role="admin") == 0
    assert now.value("jobworker_batches_unfinished") == 1
    assert now.value("jobworker_jobs_oldest_queued_seconds") > 0
    until_value(own, "jobworker_jobs_started_total", before.sum("jobworker_jobs_started_total") + 2)
    api.cancel(batch)
    after = settled(own, before, 1)
    assert grown(before, after, "jobworker_jobs_finished_total", state="skipped", reason="cancelled") == 3
    assert grown(before, after, "jobworker_jobs_finished_total", state="cancelled", reason="cancelled") == 2
    assert after.value("jobworker_jobs_running") == after.sum("jobworker_jobs_queued") == 0
    assert after.value("jobworker_jobs_oldest_queued_seconds") == 0


def test_what_a_log_limit_throws_away_is_counted(own: Service) -> None:
    api, before = own.api(), scrape(own.metrics_port)
    job = schedule_pb2.JobRequest(command="head -c 5000 /dev/zero", limits=job_pb2.Limits(log_bytes=1000))
    api.wait(api.submit(job))
    after = settled(own, before, 1)
    assert grown(before, after, "jobworker_log_written_bytes_total") == 1000
    assert 0 < grown(before, after, "jobworker_log_dropped_bytes_total", reason="log_limit") <= 4000
    assert grown(before, after, "jobworker_log_dropped_bytes_total", reason="disk_full") == 0


@pytest.mark.parametrize("policy", [job_pb2.LOG_POLICY_TRUNCATE_TAIL, job_pb2.LOG_POLICY_TRUNCATE_HEAD])
def test_what_a_log_policy_drops_is_counted_to_the_byte(own: Service, policy: job_pb2.LogPolicy) -> None:
    api, before = own.api(), scrape(own.metrics_port)
    command, limits = "head -c 5000000 /dev/zero", job_pb2.Limits(log_bytes=1000)
    batch = api.submit(schedule_pb2.JobRequest(command=command, limits=limits, log_policy=policy))
    api.wait(batch)
    (size,) = api.jobs(batch)[0].logs
    dropped = size.dropped_head_bytes + size.dropped_tail_bytes
    assert dropped > 0
    assert size.bytes + size.dropped_tail_bytes == 5_000_000
    after = settled(own, before, 1)
    assert grown(before, after, "jobworker_log_written_bytes_total") == size.bytes
    assert grown(before, after, "jobworker_log_dropped_bytes_total", reason="log_limit") == dropped


def test_bytes_sent_to_followers_are_counted_and_followers_while_they_are_there(own: Service, scratch: Path) -> None:
    api, before = own.api(), scrape(own.metrics_port)
    go = scratch / "go"
    batch = api.submit(f"head -c 100000 /dev/zero; until [ -e {go} ]; do sleep 0.05; done")
    stream = api.follow(batch)
    read = 0
    while read < 100_000:
        read += len(next(stream).data)
    now = until_value(own, "jobworker_followers", 1)
    assert now.value("jobworker_log_files_open") == 1
    assert now.value("jobworker_calls_under_way") >= 1
    go.touch()
    for _ in stream:
        pass
    after = until_value(own, "jobworker_followers", 0)
    assert grown(before, after, "jobworker_log_streamed_bytes_total") == 100_000


def test_calls_are_counted_by_method_and_code(own: Service) -> None:
    api, before = own.api(), scrape(own.metrics_port)
    with pytest.raises(grpc.RpcError):
        api.get("019312d4-5c00-7abc-8def-0123456789ab")
    labels = {"grpc_service": "jobworker.v1.JobQueryService", "grpc_method": "GetBatch", "grpc_type": "unary"}
    handled = before.sum("grpc_server_handled_total", **labels, grpc_code="NotFound") + 1
    after = until_value(own, "grpc_server_handled_total", handled, **labels, grpc_code="NotFound")
    assert grown(before, after, "grpc_server_started_total", **labels) == 1
    assert grown(before, after, "grpc_server_handling_seconds_count", **labels) == 1


def test_what_a_hostile_client_chooses_never_becomes_a_label(own: Service) -> None:
    before = scrape_plain(own.metrics_port)
    api = own.api()
    evil = 'x"} 1 \\ evil'
    options = job_pb2.BatchOptions(name=evil, labels={"evil": evil})
    api.wait(api.submit(schedule_pb2.JobRequest(command="echo evil", name=evil), batch=options))
    for method in ("/jobworker.v1.JobQueryService/Evil", "/evil.Service/GetBatch"):
        with pytest.raises(grpc.RpcError):
            api.channel.unary_unary(method)(b"", **api.call())
    with pytest.raises(grpc.RpcError):
        api.query.GetBatch(query_pb2.GetBatchRequest(correlation_id="evil"), **api.call())
    until_value(own, "jobworker_batches_unfinished", 0)
    after = scrape_plain(own.metrics_port)
    told = figures.text(own.metrics_port)
    assert "evil" not in told.lower()
    assert "alice" not in told

    def series(scraped: Figures) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        return {(s.name, tuple(sorted(s.labels.items()))) for s in scraped.samples}

    assert series(after) == series(before)


def test_both_forms_hold_every_metric_that_is_documented_and_no_other_of_ours(own: Service) -> None:
    documented = {spec.name.removesuffix("_total") for spec in ALL}
    for scraped in (scrape(own.metrics_port), scrape_plain(own.metrics_port)):
        names = {metric.name.removesuffix("_total") for metric in scraped.metrics}
        ours = {name for name in names if not name.startswith(("python_", "process_"))}
        assert ours == documented
        assert {"process_cpu_seconds", "python_gc_collections", "python_info"} <= names
    kinds = {metric.name: metric.type for metric in scrape(own.metrics_port).metrics}
    assert {kinds[spec.name.removesuffix("_total")] for spec in ALL if spec.kind == "counter"} == {"counter"}


def test_promtool_finds_nothing_to_say(own: Service) -> None:
    api = own.api()
    api.wait(api.submit(*MIXED))
    promtool = prometheus_programs() / "promtool"
    text = figures.text(own.metrics_port)
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(parser.text_string_to_metric_families(text))


def test_the_state_of_the_service_and_its_surroundings_is_told(own: Service) -> None:
    now = scrape(own.metrics_port)
    assert now.value("jobworker_build_info") == 1
    assert [s.labels["state"] for s in now.of("jobworker_service_state") if s.value] == ["serving"]
    disk = os.statvfs(own.data)
    assert now.value("jobworker_disk_size_bytes", volume="data") == disk.f_blocks * disk.f_frsize
    assert {s.labels["volume"] for s in now.of("jobworker_disk_free_bytes")} == {"data", "logs"}
    expiries = {c.name: c.expires_at.ToSeconds() for c in Admin(own).status().certificates}
    told = {s.labels["certificate"]: s.value for s in now.of("jobworker_certificate_not_after_timestamp_seconds")}
    assert told == expiries
    assert now.value("jobworker_config_generation") == 1
    assert now.value("jobworker_config_last_reload_successful") == 1
    lag = "jobworker_event_loop_lag_seconds_count"
    until(lambda: scrape(own.metrics_port).value(lag) > now.value(lag), "the loop's lag is measured")


def test_a_restarted_executor_is_counted_and_its_jobs_are_lost_once(service: Service) -> None:
    api = service.api()
    batch = api.submit(*["sleep 600"] * 3)
    first = until_value(service, "jobworker_jobs_started_total", 3)
    assert first.value("jobworker_executor_starts_total") == first.value("jobworker_executor_up") == 1
    kill(service.child("executor"))
    api.wait(batch)
    after = until_value(service, "jobworker_batches_finished_total", 1)
    until_value(service, "jobworker_executor_starts_total", 2)
    assert after.value("jobworker_jobs_finished_total", state="lost", reason="executor_lost") == 3
    assert after.sum("jobworker_jobs_finished_total") == 3
    start = "jobworker_executor_start_time_seconds"
    assert scrape(service.metrics_port).value(start) > first.value(start)


def test_a_server_that_is_killed_counts_anew_and_its_gauges_go_on(service: Service, scratch: Path) -> None:
    api = service.api()
    go = scratch / "go"
    api.wait(api.submit("echo done"))
    batch = api.submit(*[f"until [ -e {go} ]; do sleep 0.05; done"] * 3, batch=job_pb2.BatchOptions(parallelism=2))
    until_value(service, "jobworker_jobs_started_total", 3)
    service.kill_server()
    service.ready()
    until(lambda: figures.ready(service.metrics_port)[0] == 200, "it is ready again")
    now = until_value(service, "jobworker_jobs_running", 2)
    assert now.value("jobworker_jobs_queued", role="operator") == 1
    assert now.sum("jobworker_jobs_started_total") == now.sum("jobworker_batches_accepted_total") == 0
    go.touch()
    api.wait(batch)
    after = until_value(service, "jobworker_batches_finished_total", 1)
    # One is started by this server; the ends of all three are told by it, once.
    assert after.value("jobworker_jobs_started_total") == 1
    assert after.sum("jobworker_jobs_finished_total") == 3


def test_a_refused_configuration_is_told(tmp_path: Path) -> None:
    file = tmp_path / "jobworker.toml"
    file.write_text("[jobs]\nrunning = 5\n")
    with running(tmp_path / "service", CONFIG=str(file)) as service:
        before = scrape(service.metrics_port)
        file.write_text("[jobs]\nrunning = 0\n")
        refused = until_value(service, "jobworker_config_last_reload_successful", 0)
        when = "jobworker_config_last_reload_timestamp_seconds"
        assert refused.value(when) == before.value(when)
        file.write_text("[jobs]\nrunning = 6\n")
        taken = until_value(service, "jobworker_config_last_reload_successful", 1)
        assert taken.value("jobworker_config_generation") == before.value("jobworker_config_generation") + 1
        assert taken.value(when) > before.value(when)
