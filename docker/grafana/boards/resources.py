"""The lower rows of the overview: what the service stands on, and how much of it is used."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from boards.parts import GREEN, ORANGE, RED, SERVICE, Query, graph, quantiles, rate, row

_NODE = 'job=~"node.*"'
_IDLE = f'{_NODE}, mode="idle"'


def process(made: dashboard.Dashboard) -> dashboard.Dashboard:
    """A row."""
    panels = [
        graph(
            "CPU of the server",
            "Of one core. The event loop has one thread: near 100 % calls wait.",
            Query(f"rate(process_cpu_seconds_total{{{SERVICE}}}[$__rate_interval])", "{{instance}}"),
            unit="percentunit", steps=[(None, GREEN), (0.8, ORANGE), (1, RED)],
        ),
        graph(
            "Event loop lag",
            "How much later than asked for the event loop comes. Every call waits as long.",
            *quantiles("jobworker_event_loop_lag_seconds", exemplars=False),
            unit="s", steps=[(None, GREEN), (0.25, RED)],
        ),
        graph(
            "Memory of the server",
            "Resident memory of the process.",
            Query(f"process_resident_memory_bytes{{{SERVICE}}}", "{{instance}}"),
            unit="bytes",
        ),
        graph(
            "Open descriptors",
            "Of the most that the process may have; logs of running jobs are among them.",
            Query(f"process_open_fds{{{SERVICE}}} / process_max_fds{{{SERVICE}}}", "{{instance}}"),
            unit="percentunit", most=1, steps=[(None, GREEN), (0.8, RED)],
        ),
        graph(
            "Log files open",
            "Logs of running jobs and those that followers read.",
            Query(f"jobworker_log_files_open{{{SERVICE}}}", "{{instance}}"),
            unit="short",
        ),
        graph(
            "Garbage collections",
            "Of Python, by generation.",
            Query(rate("python_gc_collections_total", by="generation"), "generation {{generation}}"),
            unit="ops",
        ),
    ]  # fmt: skip
    return row(made, "Server process: use, saturation", panels)


def disk(made: dashboard.Dashboard) -> dashboard.Dashboard:
    """A row."""
    panels = [
        graph(
            "Free space",
            "Of the file systems of data and logs. Below limits.free_disk_bytes no batch is taken.",
            Query(f"jobworker_disk_free_bytes{{{SERVICE}}}", "{{volume}}"),
            unit="bytes", steps=[(None, RED), (1e9, GREEN)],
        ),
        graph(
            "Free share",
            "Alerts come at 40 % when it falls quickly, and at 5 % in any case.",
            Query(f"jobworker:disk_free:ratio{{{SERVICE}}}", "{{volume}}"),
            unit="percentunit", most=1, steps=[(None, RED), (0.05, ORANGE), (0.4, GREEN)],
        ),
        graph(
            "Free inodes",
            "A batch takes one for its folder, two for its files and one per job that prints.",
            Query(f"jobworker_disk_free_inodes{{{SERVICE}}}", "{{volume}}"),
            unit="short", steps=[(None, RED), (20000, GREEN)],
        ),
        graph(
            "Fsync time",
            "Each accepted batch and each final state waits for one, shared by those that come together.",
            *quantiles("jobworker_fsync_seconds", exemplars=False),
            unit="s", steps=[(None, GREEN), (0.5, RED)],
        ),
        graph(
            "Fsyncs",
            "Done, and failed. A failed one is never acknowledged, nor tried again as if nothing were.",
            Query(rate("jobworker_fsync_seconds_count"), "done"),
            Query(rate("jobworker_fsync_failed_total"), "failed"),
            unit="ops",
        ),
        graph(
            "Stored",
            "What batches, results and logs take on the disk, finished or not; limits.stored_bytes where there is one.",
            Query(f"jobworker_store_bytes{{{SERVICE}}}", "{{instance}}"),
            Query(f"jobworker_store_limit_bytes{{{SERVICE}}}", "limit of {{instance}}"),
            unit="bytes",
        ),
    ]  # fmt: skip
    return row(made, "Disk", panels)


def executor(made: dashboard.Dashboard) -> dashboard.Dashboard:
    """A row."""
    panels = [
        graph(
            "Executor",
            "1 while one is attached.",
            Query(f"jobworker_executor_up{{{SERVICE}}}", "{{instance}}"),
            unit="none", width=6, most=1,
        ),
        graph(
            "Executor starts",
            "Executors that came within the hour. Each new one means that the jobs of the last were LOST.",
            Query(f"increase(jobworker_executor_starts_total{{{SERVICE}}}[1h])", "{{instance}}"),
            unit="short", width=6, steps=[(None, GREEN), (1.5, ORANGE)],
        ),
        graph(
            "Configuration",
            "Its generation, and 1 while the newest was taken (0: the one before is in force).",
            Query(f"jobworker_config_generation{{{SERVICE}}}", "generation"),
            Query(f"jobworker_config_last_reload_successful{{{SERVICE}}}", "taken"),
            unit="none", width=6,
        ),
        graph(
            "Spans",
            "Sent to the collector, failed and dropped.",
            Query(rate("jobworker_spans_exported_total", by="outcome"), "{{outcome}}"),
            unit="ops", width=6,
        ),
    ]  # fmt: skip
    return row(made, "Executor, configuration, traces", panels)


def machine(made: dashboard.Dashboard) -> dashboard.Dashboard:
    """A row."""
    window = "[$__rate_interval]"
    panels = [
        graph(
            "CPU of the machine",
            "In use, of all cores; jobs are among it. Needs node_exporter.",
            Query(f"1 - avg by (instance) (rate(node_cpu_seconds_total{{{_IDLE}}}{window}))", "{{instance}}"),
            unit="percentunit", most=1, steps=[(None, GREEN), (0.9, ORANGE)],
        ),
        graph(
            "Load per core",
            "Processes that want a core, for each there is: above 1 they wait.",
            Query(
                f"node_load1{{{_NODE}}} / on (instance) count by (instance) (node_cpu_seconds_total{{{_IDLE}}})",
                "{{instance}}",
            ),
            unit="none", steps=[(None, GREEN), (1, ORANGE), (2, RED)],
        ),
        graph(
            "Memory of the machine",
            "In use: what could not be had without swapping.",
            Query(
                f"1 - node_memory_MemAvailable_bytes{{{_NODE}}} / node_memory_MemTotal_bytes{{{_NODE}}}", "{{instance}}"
            ),
            unit="percentunit", most=1, steps=[(None, GREEN), (0.9, RED)],
        ),
        graph(
            "Disks busy",
            "Share of the time in which a disk had something to do.",
            Query(f"rate(node_disk_io_time_seconds_total{{{_NODE}}}{window})", "{{device}}"),
            unit="percentunit", most=1, steps=[(None, GREEN), (0.9, ORANGE)],
        ),
        graph(
            "Waiting",
            "Share of the time in which something waited for CPU, memory or a disk (pressure stall information).",
            Query(f"rate(node_pressure_cpu_waiting_seconds_total{{{_NODE}}}{window})", "cpu"),
            Query(f"rate(node_pressure_memory_waiting_seconds_total{{{_NODE}}}{window})", "memory"),
            Query(f"rate(node_pressure_io_waiting_seconds_total{{{_NODE}}}{window})", "disk"),
            unit="percentunit", most=1,
        ),
        graph(
            "Out of memory",
            "Processes that the kernel ended for want of memory, within the hour; jobs go before the executor does.",
            Query(f"increase(node_vmstat_oom_kill{{{_NODE}}}[1h])", "{{instance}}"),
            unit="short", steps=[(None, GREEN), (1, RED)],
        ),
    ]  # fmt: skip
    return row(made, "Machine: use, saturation, errors (node_exporter)", panels)
