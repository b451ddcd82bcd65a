"""One node for all of these tests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import cluster as clusters
from tests.harness.cluster import Cluster, Release

NUMBERS = itertools.count(1)  # a namespace is not waited for when it goes


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A real Kubernetes, with the service's images."""
    with clusters.running() as running:
        yield running


@pytest.fixture(scope="session")
def installed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """A release for tests that leave it working."""
    release = Release(cluster, "shared", tmp_path_factory.mktemp("shared"))
    values = {
        "executor": {"resources": {"limits": {"memory": "256Mi"}}},
        "networkPolicy": {"enabled": True},
        "podDisruptionBudget": {"enabled": True},
        "drain": {"seconds": 5},
    }
    release.install(values)
    try:
        yield release
    finally:
        release.close()


@pytest.fixture
def own(cluster: Cluster, tmp_path: Path) -> Iterator[Release]:
    """A release of the test's own, not installed yet."""
    release = Release(cluster, f"own{next(NUMBERS)}", tmp_path)
    try:
        yield release
    finally:
        release.close()
        cluster.kubectl("delete", "namespace", release.namespace, "--ignore-not-found", "--wait=false")
