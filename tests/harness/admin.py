"""An administrator of a running service, and its configuration file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2, health_pb2_grpc

from jobworker.v1 import admin_pb2, admin_pb2_grpc, query_pb2
from tests.harness.service import Api, Service
from tests.harness.wait import until

SCHEDULE = "jobworker.v1.JobScheduleService"


class Admin:
    """AdminService by its generated stub."""

    def __init__(self, service: Service) -> None:
        self.api: Api = service.api("admin")
        self.stub = admin_pb2_grpc.AdminServiceStub(self.api.channel)
        self.health = health_pb2_grpc.HealthStub(self.api.channel)

    def status(self) -> admin_pb2.ServiceStatus:
        """GetStatus."""
        answer: admin_pb2.ServiceStatus = self.stub.GetStatus(admin_pb2.GetStatusRequest(), **self.api.call())
        return answer

    def state(self) -> str:
        """`SERVING`."""
        return admin_pb2.ServiceState.Name(self.status().state).removeprefix("SERVICE_STATE_")

    def start(self) -> admin_pb2.ServiceStatus:
        """StartService."""
        answer: admin_pb2.ServiceStatus = self.stub.StartService(admin_pb2.StartServiceRequest(), **self.api.call())
        return answer

    def stop(self, *, deadline_seconds: float | None = None, **request: bool) -> admin_pb2.ServiceStatus:
        """StopService."""
        message = admin_pb2.StopServiceRequest(**request)
        if deadline_seconds is not None:
            message.deadline.CopyFrom(duration(deadline_seconds))
        answer: admin_pb2.ServiceStatus = self.stub.StopService(message, **self.api.call())
        return answer

    def config(self) -> admin_pb2.Config:
        """GetConfig."""
        answer: admin_pb2.Config = self.stub.GetConfig(admin_pb2.GetConfigRequest(), **self.api.call())
        return answer

    def value(self, key: str) -> tuple[Any, str]:
        """A key's value, and where it came from."""
        (entry,) = [entry for entry in self.config().entries if entry.key == key]
        return MessageToDict(entry.value), entry.source

    def update(self, values: dict[str, Any], *, mask: Sequence[str] = (), generation: int = 0) -> admin_pb2.Config:
        """UpdateConfig; `values` nested as in the file."""
        message = admin_pb2.UpdateConfigRequest(generation=generation)
        message.values.update(values)
        message.update_mask.paths.extend(mask)
        answer: admin_pb2.Config = self.stub.UpdateConfig(message, **self.api.call())
        return answer

    def plan(self, **retention: Any) -> admin_pb2.RetentionPlan:
        """PlanRetention, with these keys of `retention`."""
        message = admin_pb2.PlanRetentionRequest()
        message.values.update({"retention": retention})
        answer: admin_pb2.RetentionPlan = self.stub.PlanRetention(message, **self.api.call())
        return answer

    def serving(self, service: str = SCHEDULE) -> bool:
        """What the health service says of a service."""
        answer = self.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=60, wait_for_ready=True)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def refused_file(self, words: str) -> str:
        """Waits until the newest file is refused with these words; all that is said."""
        until(lambda: words in self.status().config.last_error, f"the file is refused: {words}")
        status = self.status().config
        assert status.last_error_at.seconds >= status.loaded_at.seconds
        return status.last_error

    def took_over(self, key: str, value: Any) -> None:
        """Waits until a key has a value, and no error is left."""
        until(lambda: self.value(key)[0] == value, f"{key} is {value}")
        until(lambda: not self.status().config.last_error, "no error is left")


def kill_server(service: Service, *callers: Api | Admin) -> None:
    """kill -9 of the server, and each caller has a connection to the next one: a call on the old one would be lost."""
    service.kill_server()
    service.ready()
    for caller in callers:
        api = caller.api if isinstance(caller, Admin) else caller
        until(lambda api=api: _answers(api), "the next server answers")  # type: ignore[misc]


def _answers(api: Api) -> bool:
    try:
        api.query.ListBatches(query_pb2.ListBatchesRequest(page_size=1), **api.call())
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:  # type: ignore[attr-defined]
            raise
        return False
    return True


def duration(seconds: float) -> Duration:
    """As a message."""
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


class ConfigMap:
    """A folder as Kubernetes mounts a ConfigMap: the file leads over `..data` to a folder that is swapped."""

    def __init__(self, folder: Path, content: str) -> None:
        self.folder = folder
        self.file = folder / "jobworker.toml"
        self._count = 0
        folder.mkdir()
        self.swap(content)
        self.file.symlink_to("..data/jobworker.toml")

    def swap(self, content: str | None) -> None:
        """As kubelet's AtomicWriter does it; None: the new folder has no such file."""
        self._count += 1
        new, old = self.folder / f"..{self._count}", self.folder / f"..{self._count - 1}"
        new.mkdir()
        if content is not None:
            (new / "jobworker.toml").write_text(content)
        link = self.folder / "..data_tmp"
        link.symlink_to(new.name)
        link.rename(self.folder / "..data")
        if old.exists():
            (old / "jobworker.toml").unlink(missing_ok=True)
            old.rmdir()
