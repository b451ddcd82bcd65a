"""Values of the configuration that are valid each and cannot be together."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from jobworker.server.config.model import Grpc, Limits, Metrics, Rest, Retention, Settings


def contradictions(settings: Settings) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) of each. Defaults contradict nothing: only a
    value that was given is at fault."""
    jobs, limits = settings.jobs, settings.limits
    if "parallelism" in jobs.model_fields_set and jobs.parallelism > jobs.running:
        yield "jobs.parallelism", f"{jobs.parallelism} is more than jobs.running, {jobs.running}"
    if "batch_jobs" in limits.model_fields_set and limits.batch_jobs > limits.user_unfinished_jobs:
        yield (
            "limits.batch_jobs",
            f"{limits.batch_jobs} is more than limits.user_unfinished_jobs, {limits.user_unfinished_jobs}",
        )
    yield from _kept(settings)
    writable = [("jobs.writable", path) for path in jobs.writable]
    if "work" in settings.paths.model_fields_set:
        writable.append(("paths.work", settings.paths.work))
    for key, path in writable:
        for name, folder in settings.paths:
            if name != "work" and _overlap(path, folder):
                yield key, f"{path} overlaps paths.{name}, {folder}: jobs could take the service over"
    listeners: list[tuple[str, Grpc | Rest | Metrics]] = [("grpc", settings.grpc)]
    listeners += [("rest", settings.rest)] if settings.rest.enabled else []
    listeners += [("metrics", settings.metrics)] if settings.metrics.enabled else []
    for (one, first), (other, second) in combinations(listeners, 2):
        if first.port == second.port != 0 and first.host == second.host:
            given, taken = (other, one) if "port" in second.model_fields_set else (one, other)
            yield f"{given}.port", f"{first.port} is {taken}.port as well"


def _kept(settings: Settings) -> Iterator[tuple[str, str]]:
    """Where retention keeps as much as is accepted, nothing is ever removed, and in the end nothing accepted."""
    for key in sorted(Retention.model_fields.keys() & Limits.model_fields.keys()):
        kept, most = getattr(settings.retention, key), getattr(settings.limits, key)
        if kept is not None and most is not None and kept >= most:
            yield f"retention.{key}", f"{kept} is not less than limits.{key}, {most}: batches would be refused before"


def _overlap(path: Path, folder: Path) -> bool:
    one, other = path.resolve(), folder.resolve()
    return one.is_relative_to(other) or other.is_relative_to(one)
