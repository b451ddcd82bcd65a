"""AdminService: the service steered while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf import struct_pb2

from jobworker.server.config.keys import KEYS, SECTIONS, flat, in_words, nested
from jobworker.server.config.sources import flatten
from jobworker.server.errors import PermissionDeniedError, invalid
from jobworker.server.rpc import convert
from jobworker.server.rpc.call import CURRENT, caller
from jobworker.v1 import admin_pb2, admin_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from jobworker.server.config.model import Settings
    from jobworker.server.config.sources import Source

# As long as any job may run (scheduling/validate.py); a later deadline is none.
_MAX_DEADLINE_SECONDS = 366 * 86400


_ADMINISTER_USERS = "administer_users"  # server/rights.py


class Config(Protocol):
    """The configuration in force."""

    @property
    def settings(self) -> Settings: ...

    @property
    def sources(self) -> Mapping[str, Source]: ...

    @property
    def generation(self) -> int: ...

    def update(self, values: Mapping[str, Any], unset: Collection[str], *, generation: int) -> None: ...


class Drain(Protocol):
    """Who stops and starts."""

    def stop(self, *, deadline_seconds: float | None, cancel_queued: bool) -> None: ...

    def start(self) -> None: ...


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """See admin.proto."""

    def __init__(
        self,
        *,
        status: Callable[[], Awaitable[admin_pb2.ServiceStatus]],
        drain: Drain,
        config: Config,
        retention: Callable[..., Awaitable[admin_pb2.RetentionPlan]],
        show: Callable[[], Awaitable[None]],
    ) -> None:
        """`show` has the health service tell whether work is taken. `retention`: see RetentionPlans."""
        self._status = status
        self._drain = drain
        self._config = config
        self._retention = retention
        self._show = show

    async def GetStatus(self, request: admin_pb2.GetStatusRequest, context: Any) -> admin_pb2.ServiceStatus:  # noqa: ARG002, N802
        """How the service is."""
        return await self._status()

    async def StartService(self, request: admin_pb2.StartServiceRequest, context: Any) -> admin_pb2.ServiceStatus:  # noqa: ARG002, N802
        """Takes work again."""
        self._drain.start()
        await self._show()
        return await self._status()

    async def StopService(self, request: admin_pb2.StopServiceRequest, context: Any) -> admin_pb2.ServiceStatus:  # noqa: ARG002, N802
        """Takes no new batches and starts no jobs; answers at once, what runs runs on."""
        deadline_seconds = convert.seconds(request.deadline, "deadline") if request.HasField("deadline") else None
        if deadline_seconds is not None and request.kill:
            raise invalid("kill", "cannot be given together with deadline")
        if deadline_seconds is not None and deadline_seconds > _MAX_DEADLINE_SECONDS:
            raise invalid("deadline", f"is more than {_MAX_DEADLINE_SECONDS} s; without one, jobs run to their end")
        CURRENT.get().audit = {
            "deadline_seconds": deadline_seconds,
            "kill": request.kill,
            "cancel_queued": request.cancel_queued,
        }
        self._drain.stop(
            deadline_seconds=0.0 if request.kill else deadline_seconds, cancel_queued=request.cancel_queued
        )
        await self._show()
        return await self._status()

    async def GetConfig(self, request: admin_pb2.GetConfigRequest, context: Any) -> admin_pb2.Config:  # noqa: ARG002, N802
        """The configuration in force."""
        return self._message()

    async def UpdateConfig(self, request: admin_pb2.UpdateConfigRequest, context: Any) -> admin_pb2.Config:  # noqa: ARG002, N802
        """Changes it, whole or not at all."""
        values, unset = _change(request)
        if any(key.startswith("auth.") for key in (*values, *unset)) and _ADMINISTER_USERS not in caller().rights:
            who = caller()
            raise PermissionDeniedError(
                f"to change auth takes the right {_ADMINISTER_USERS}; {who.user} is {who.role}",
                token_id=who.token_id,
            )
        self._config.update(values, unset, generation=request.generation)
        return self._message()

    async def PlanRetention(self, request: admin_pb2.PlanRetentionRequest, context: Any) -> admin_pb2.RetentionPlan:  # noqa: ARG002, N802
        """Which finished batches would be removed now."""
        values = dict(flatten(_table(request.values)))
        return await self._retention(values, max_removals=request.max_removals)

    def _message(self) -> admin_pb2.Config:
        values, sources = flat(self._config.settings), self._config.sources
        message = admin_pb2.Config(generation=self._config.generation)
        message.values.update(nested(values))
        for path, key in KEYS.items():
            message.entries.add(
                key=path, value=_value(values[path]), source=sources[path], live=key.live, description=key.description
            )
        return message


def _change(request: admin_pb2.UpdateConfigRequest) -> tuple[dict[str, Any], set[str]]:
    """The keys to set, and those to give back."""
    given = dict(flatten(_table(request.values)))
    if not request.update_mask.paths:
        if not given:
            raise invalid("values", "is empty: it, or update_mask, names the keys to change")
        return given, set()
    named: set[str] = set()
    for path in request.update_mask.paths:
        named.update(key for key in KEYS if path == "*" or key.startswith(f"{path}."))
        if path != "*" and path not in SECTIONS:
            named.add(path)
    # What the mask leaves out is left alone; but a key that there is not is a mistake in any case.
    return {key: value for key, value in given.items() if key in named or key not in KEYS}, named - given.keys()


def _value(value: Any) -> struct_pb2.Value:
    match value:
        case None:
            return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
        case bool():
            return struct_pb2.Value(bool_value=value)
        case int() | float():
            return struct_pb2.Value(number_value=value)
        case dict():
            return struct_pb2.Value(string_value=in_words(value))
        case _:
            return struct_pb2.Value(string_value=str(value))


def _table(struct: struct_pb2.Struct) -> dict[str, Any]:
    return {name: _plain(value) for name, value in struct.fields.items()}


def _plain(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _table(value.struct_value)
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
        case _:
            return None
