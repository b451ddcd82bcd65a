"""Which role each RPC takes: the one table of permissions. Whose batches a call may touch is not decided here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from jobworker.server.identity.who import Role

# Full method name -> the least role; None: a client certificate is enough, no token is asked for.
LEAST_ROLE: Mapping[str, Role | None] = MappingProxyType(
    {
        "/jobworker.v1.AuthService/Login": None,
        "/jobworker.v1.JobScheduleService/ExecuteJob": Role.OPERATOR,
        "/jobworker.v1.JobScheduleService/ExecuteJobs": Role.OPERATOR,
        "/jobworker.v1.JobScheduleService/CancelBatch": Role.OPERATOR,
        "/jobworker.v1.JobQueryService/SearchJob": Role.VIEWER,
        "/jobworker.v1.JobQueryService/StreamLogs": Role.VIEWER,
        "/jobworker.v1.JobQueryService/GetBatch": Role.VIEWER,
        "/jobworker.v1.JobQueryService/WaitBatch": Role.VIEWER,
        "/jobworker.v1.JobQueryService/ListBatches": Role.VIEWER,
        "/jobworker.v1.AdminService/GetStatus": Role.ADMIN,
        "/jobworker.v1.AdminService/StartService": Role.ADMIN,
        "/jobworker.v1.AdminService/StopService": Role.ADMIN,
        "/jobworker.v1.AdminService/GetConfig": Role.ADMIN,
        "/jobworker.v1.AdminService/UpdateConfig": Role.ADMIN,
        "/jobworker.v1.AdminService/PlanRetention": Role.ADMIN,
        "/grpc.health.v1.Health/Check": None,
        "/grpc.health.v1.Health/List": None,
        "/grpc.health.v1.Health/Watch": None,
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": None,
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": None,
    }
)

# What the certificate of the health check, which names no user, may call.
HEALTH_METHODS = frozenset({"/grpc.health.v1.Health/Check"})


def least_role(method: str) -> Role | None:
    """The least role that may call a method; one that the table does not name is for administrators."""
    return LEAST_ROLE.get(method, Role.ADMIN)
