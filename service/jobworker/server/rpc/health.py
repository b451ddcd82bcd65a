"""The health service: the library's, which knows no List."""

from __future__ import annotations

from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer


class Health(HealthServicer):  # type: ignore[misc]  # the library has no types
    """See health.proto; `set` and `enter_graceful_shutdown` are the library's."""

    async def List(self, request: health_pb2.HealthListRequest, context: Any) -> health_pb2.HealthListResponse:  # noqa: ARG002, N802
        """How each service is, "" among them."""
        answer = health_pb2.HealthListResponse()
        for service, status in self._server_status.items():
            answer.statuses[service].status = status
        return answer
