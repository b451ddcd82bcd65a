"""For administrators: how the service is, stopping and starting it, and its configuration. Role: admin."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.duration_pb2 import Duration

from jobworker.v1.admin_pb2 import (
    Config,
    GetConfigRequest,
    GetStatusRequest,
    PlanRetentionRequest,
    RetentionPlan,
    ServiceStatus,
    StartServiceRequest,
    StopServiceRequest,
    UpdateConfigRequest,
)

if TYPE_CHECKING:
    from jobworker.client.connection import Connection

_T = TypeVar("_T")


class Admin:
    """`Client.admin`. Every method raises a JobworkerError when the service refuses or cannot be reached."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def status(self) -> ServiceStatus:
        """How the service is now."""
        request = GetStatusRequest()
        return await self._connection.call(lambda link, pairs: link.admin.GetStatus(request, metadata=pairs))

    async def start(self) -> ServiceStatus:
        """Has the service take work again; the same when repeated."""
        request = StartServiceRequest()
        return await self._connection.call(lambda link, pairs: link.admin.StartService(request, metadata=pairs))

    async def stop(
        self, *, deadline_seconds: float | None = None, kill: bool = False, cancel_queued: bool = False
    ) -> ServiceStatus:
        """Has the service take no batches and start no jobs; returns at once, and the status tells what still runs.

        `deadline_seconds` is how long running jobs may go on before they are cancelled (None: to their end), `kill`
        cancels them at once, `cancel_queued` skips those that wait. Repeated, it may shorten the deadline, and cancel
        what was left.
        """
        request = StopServiceRequest(kill=kill, cancel_queued=cancel_queued)
        if deadline_seconds is not None:
            duration = Duration()
            duration.FromTimedelta(timedelta(seconds=deadline_seconds))
            request.deadline.CopyFrom(duration)
        return await self._connection.call(lambda link, pairs: link.admin.StopService(request, metadata=pairs))

    async def config(self) -> Config:
        """The configuration in force, and where each value came from."""
        request = GetConfigRequest()
        return await self._connection.call(lambda link, pairs: link.admin.GetConfig(request, metadata=pairs))

    async def update_config(
        self, values: Mapping[str, Any], *, unset: Collection[str] = (), generation: int = 0
    ) -> Config:
        """Sets keys by path, `{"jobs.running": 8}`, and gives those in `unset` back to file, environment and defaults;
        whole or not at all. `generation` is the one that the change was made for; 0 is any.
        """
        request = UpdateConfigRequest(generation=generation)
        request.update_mask.paths.extend([*values, *unset])
        request.values.update(_nested(values))
        # Not made again: after a lost answer, the generation could be the change's own.
        return await self._connection.call(
            lambda link, pairs: link.admin.UpdateConfig(request, metadata=pairs), again=not generation
        )

    async def retention_plan(self, values: Mapping[str, Any] | None = None, *, max_removals: int = 0) -> RetentionPlan:
        """Which finished batches would be removed now, if keys below `retention` had these values, by path:
        `{"retention.stored_bytes": 10**9}`. At most so many are listed; 0: 1000.
        """
        request = PlanRetentionRequest(max_removals=max_removals)
        request.values.update(_nested(values or {}))
        return await self._connection.call(lambda link, pairs: link.admin.PlanRetention(request, metadata=pairs))


class SyncAdmin:
    """The same for programs without an event loop; see `Admin`."""

    def __init__(self, admin: Admin, run: Callable[[Coroutine[None, None, Any]], Any]) -> None:
        """`run` runs a coroutine on the client's own loop to its end."""
        self._admin = admin
        self._run = run

    def status(self) -> ServiceStatus:
        """See `Admin.status`."""
        return self._done(self._admin.status())

    def start(self) -> ServiceStatus:
        """See `Admin.start`."""
        return self._done(self._admin.start())

    def stop(
        self, *, deadline_seconds: float | None = None, kill: bool = False, cancel_queued: bool = False
    ) -> ServiceStatus:
        """See `Admin.stop`."""
        return self._done(self._admin.stop(deadline_seconds=deadline_seconds, kill=kill, cancel_queued=cancel_queued))

    def config(self) -> Config:
        """See `Admin.config`."""
        return self._done(self._admin.config())

    def update_config(self, values: Mapping[str, Any], *, unset: Collection[str] = (), generation: int = 0) -> Config:
        """See `Admin.update_config`."""
        return self._done(self._admin.update_config(values, unset=unset, generation=generation))

    def retention_plan(self, values: Mapping[str, Any] | None = None, *, max_removals: int = 0) -> RetentionPlan:
        """See `Admin.retention_plan`."""
        return self._done(self._admin.retention_plan(values, max_removals=max_removals))

    def _done(self, work: Coroutine[None, None, _T]) -> _T:
        result: _T = self._run(work)
        return result


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *sections, name = path.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return tree
