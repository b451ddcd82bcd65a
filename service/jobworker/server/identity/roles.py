"""Which right each RPC takes: the one table of permissions; and whose roles have it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from jobworker.server.rights import Right

Rights = frozenset[Right]

_NONE: Rights = frozenset()
_SUBMIT = frozenset({Right.SUBMIT})
_READ = frozenset({Right.READ_OWN, Right.READ_ALL})
_CANCEL = frozenset({Right.CANCEL_OWN, Right.CANCEL_ALL})
_READ_SERVICE = frozenset({Right.READ_SERVICE})
_OPERATE_SERVICE = frozenset({Right.OPERATE_SERVICE})
_EVERYONES = frozenset({Right.READ_ALL, Right.CANCEL_ALL})

# Full method name -> rights, one of which is enough. Empty: a token is, whatever its user may do. None: a client
# certificate is, no token is asked for.
RIGHTS: Mapping[str, Rights | None] = MappingProxyType(
    {
        "/jobworker.v1.AuthService/Login": None,
        "/jobworker.v1.AuthService/WhoAmI": _NONE,
        "/jobworker.v1.AuthService/Logout": _NONE,
        "/jobworker.v1.JobScheduleService/ExecuteJob": _SUBMIT,
        "/jobworker.v1.JobScheduleService/ExecuteJobs": _SUBMIT,
        "/jobworker.v1.JobScheduleService/CancelBatch": _CANCEL,
        "/jobworker.v1.JobQueryService/SearchJob": _READ,
        "/jobworker.v1.JobQueryService/StreamLogs": _READ,
        "/jobworker.v1.JobQueryService/GetBatch": _READ,
        "/jobworker.v1.JobQueryService/WaitBatch": _READ,
        "/jobworker.v1.JobQueryService/ListBatches": _READ,
        "/jobworker.v1.AdminService/GetStatus": _READ_SERVICE,
        "/jobworker.v1.AdminService/StartService": _OPERATE_SERVICE,
        "/jobworker.v1.AdminService/StopService": _OPERATE_SERVICE,
        "/jobworker.v1.AdminService/GetConfig": _READ_SERVICE,
        "/jobworker.v1.AdminService/UpdateConfig": _OPERATE_SERVICE,
        "/jobworker.v1.AdminService/PlanRetention": _READ_SERVICE,
        "/grpc.health.v1.Health/Check": None,
        "/grpc.health.v1.Health/List": None,
        "/grpc.health.v1.Health/Watch": None,
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": None,
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": None,
    }
)

# What the certificate of the health check, which names no user, may call.
HEALTH_METHODS = frozenset({"/grpc.health.v1.Health/Check"})


def rights_for(method: str) -> Rights | None:
    """The rights of which a caller needs one; a method that the table does not name is for who operates the service."""
    return RIGHTS.get(method, _OPERATE_SERVICE)


def is_for_everyones(rights: Rights) -> bool:
    """Whether rights that let a call in are for everyone's batches."""
    return not _EVERYONES.isdisjoint(rights)
