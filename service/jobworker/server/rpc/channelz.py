"""Channelz: what gRPC itself knows of its servers, connections and calls. The library's servicer, whose failures become
errors like all others, so that log and metrics tell them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_channelz.v1._async import ChannelzServicer as Library

from jobworker.server.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SERVICE = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"]


class ChannelzServicer(channelz_pb2_grpc.ChannelzServicer):  # type: ignore[misc]  # the library has no types
    """See channelz.proto; of the whole process."""


class _Told:
    """What the library sets on a call that fails."""

    code = details = ""

    def set_code(self, code: Any) -> None:
        self.code = code.name

    def set_details(self, details: str) -> None:
        self.details = details


def _method(name: str) -> Callable[[Any, Any, Any], Awaitable[Any]]:
    ask = getattr(Library, name)

    async def method(_self: Any, request: Any, _context: Any) -> Any:
        told = _Told()
        answer = await ask(request, told)
        if told.code == "NOT_FOUND":
            raise NotFoundError(told.details or "there is no such thing")
        if told.code:
            raise RuntimeError(f"channelz: {told.code}: {told.details}")
        return answer

    return method


for _name in SERVICE.methods_by_name:
    setattr(ChannelzServicer, _name, _method(_name))
