"""The chart without a cluster: lint, unit tests, schemas of three Kubernetes versions, restricted pods, values."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness import charttools

pytestmark = pytest.mark.go

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/jobworker"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
# The oldest that the chart installs on, one between, and the newest that there are schemas for.
KUBERNETES = ("1.29.0", "1.33.0", "1.37.0")


def run(*command: object, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], check=False, capture_output=True, text=True, input=given)


def helm(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run(charttools.helm(), *arguments)


def render(*values: object, version: str = KUBERNETES[1]) -> str:
    """The chart for a release `jobs`; `values` are files, or `key=value`."""
    given = [option for v in values for option in (("-f", v) if isinstance(v, Path) else ("--set-json", v))]
    done = helm("template", "jobs", CHART, "--namespace", "batch", "--kube-version", version, *given)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schemas")
    for version in KUBERNETES:
        charttools.schemas(version, folder)
    return folder


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_lint_finds_nothing(values: Path) -> None:
    done = helm("lint", "--strict", CHART, "-f", values)
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_unit_tests_pass() -> None:
    done = run(charttools.helm_unittest(), CHART)
    assert done.returncode == 0, done.stdout
    assert "Tests:" in done.stdout


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
@pytest.mark.parametrize("version", KUBERNETES)
def test_objects_follow_the_schemas_of_kubernetes(schemas: Path, values: Path, version: str) -> None:
    place = f"{schemas}/{{{{.NormalizedKubernetesVersion}}}}-standalone{{{{.StrictSuffix}}}}"
    command = [charttools.kubeconform(), "-strict", "-summary", "-kubernetes-version", version,
               "-schema-location", f"{place}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json",
               "-skip", "ServiceMonitor,PrometheusRule,Certificate"]  # fmt: skip
    done = run(*command, given=render(values, version=version))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Invalid: 0, Errors: 0" in done.stdout
    assert "Valid: 0" not in done.stdout


def test_a_misspelt_key_would_be_found(schemas: Path) -> None:
    place = f"{schemas}/v{KUBERNETES[1]}-standalone-strict/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    wrong = render().replace("terminationGracePeriodSeconds: 660", "terminationGracePeriod: 660")
    done = run(
        charttools.kubeconform(),
        "-strict",
        "-kubernetes-version",
        KUBERNETES[1],
        "-schema-location",
        place,
        given=wrong,
    )
    assert done.returncode != 0
    assert "terminationGracePeriod" in done.stdout


def pods(rendered: str) -> list[dict[str, Any]]:
    """The specification of each pod."""
    found = []
    for document in charttools.documents(rendered):
        if document["kind"] == "Pod":
            found.append(document["spec"])
        elif document["kind"] == "StatefulSet":
            found.append(document["spec"]["template"]["spec"])
    return found


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_every_container_is_restricted(values: Path) -> None:
    """Kubernetes' Pod Security Standards, level restricted; and more: a root file system that is not written to."""
    specifications = pods(render(values))
    assert specifications
    for pod in specifications:
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
        assert {next(iter(v.keys() - {"name"})) for v in pod["volumes"]} <= allowed
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, container["name"]
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
            assert context["runAsUser"] > 0
            assert all("hostPort" not in port for port in container.get("ports", ()))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("drain.seconds=-1", "/drain/seconds"),
        ("drain.second=5", "second"),
        ("replicas=2", "replicas"),
        ("config={\"jobs\": {\"runing\": 5}}", "runing"),
        ("config={\"jobs\": {\"running\": \"many\"}}", "/config/jobs/running"),
        ("config={\"paths\": {\"data\": \"/elsewhere\"}}", "paths"),
        ("config={\"grpc\": {\"host\": \"::\"}}", "host"),
        ("executor.memoryWatch=1.5", "/executor/memoryWatch"),
        ("executor.securityContext.runAsUser=0", "/executor/securityContext/runAsUser"),
        ("pki.source=\"vault\"", "/pki/source"),
        ("pki.users=[\"Alice\"]", "/pki/users/0"),
        ("pki.users=[\"alice:root\"]", "/pki/users/0"),
        ("persistence.data.size=\"much\"", "/persistence/data/size"),
        ("service.type=\"Ingress\"", "/service/type"),
        ("image.pullPolicy=\"Sometimes\"", "/image/pullPolicy"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_by_their_name(values: str, message: str) -> None:
    done = helm("template", "jobs", CHART, "--kube-version", KUBERNETES[1], "--set-json", values)
    assert done.returncode != 0
    assert message in done.stderr.replace("'", "").replace(".", "/") or message in done.stderr, done.stderr


def test_an_old_kubernetes_is_refused() -> None:
    done = helm("template", "jobs", CHART, "--kube-version", "1.28.0")
    assert done.returncode != 0
    assert "1.29" in done.stderr


def test_every_rule_and_dashboard_becomes_an_object() -> None:
    full = charttools.documents(render(CHART / "ci/full-values.yaml"))
    rules = [d for d in full if d["kind"] == "PrometheusRule"]
    dashboards = [
        d for d in full if d["kind"] == "ConfigMap" and d["metadata"].get("labels", {}).get("grafana_dashboard") == "1"
    ]
    assert len(rules) == len(list((CHART / "files/rules").glob("*.yml"))) > 0
    assert len(dashboards) == len(list((CHART / "files/dashboards").glob("*.json"))) > 0
    for rule in rules:
        assert all(group["rules"] for group in rule["spec"]["groups"])


def test_what_is_made_from_other_files_is_not_stale() -> None:
    done = run(sys.executable, ROOT / "charts/docs.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
