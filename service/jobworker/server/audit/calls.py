"""What the audit log tells of calls: who, from where, what, on which batch, with which outcome. Nothing that a client
has sent is in a line but CorrelationIDs, numbers, and settings that are in force: no password, token, command or
environment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote

from jobworker.server.audit.share import FailureShare
from jobworker.server.rpc.call import current

if TYPE_CHECKING:
    from jobworker.server.audit.log import AuditLog
    from jobworker.server.rpc.call import Call

SUBMIT, CANCEL = "submit", "cancel"
# Of these methods every call is told; of others those that are refused, as `call`.
_WHAT = {
    "/jobworker.v1.AuthService/Login": "login",
    "/jobworker.v1.AuthService/Logout": "logout",
    "/jobworker.v1.JobScheduleService/ExecuteJob": SUBMIT,
    "/jobworker.v1.JobScheduleService/ExecuteJobs": SUBMIT,
    "/jobworker.v1.JobScheduleService/CancelBatch": CANCEL,
    "/jobworker.v1.AdminService/StartService": "admin.start",
    "/jobworker.v1.AdminService/StopService": "admin.stop",
    "/jobworker.v1.AdminService/UpdateConfig": "admin.config.update",
    "/jobworker.v1.AdminService/GetConfig": "admin.config.read",
}
_REFUSED = "call"


class CallAudit:
    """On the event loop; an rpc.interceptors.Audit. `holder` tells user and serial of a certificate, valid or not."""

    def __init__(self, log: AuditLog, *, holder: Callable[[bytes | None], tuple[str, int] | None]) -> None:
        self.log = log
        self.syncs_each = False  # before its answer, also of submissions and cancellations
        self._holder = holder
        self._share = FailureShare(tell=log.append)

    def tells(self, method: str) -> bool:
        """Whether all calls of a method are told, not those alone that are refused."""
        return method in _WHAT

    def told(
        self, call: Call, *, peer: str, transport: str, code: str = "OK", reason: str = ""
    ) -> Awaitable[None] | None:
        """Has a call told; what it gives is done when the line is there. None: there are too many such lines.

        Args:
            peer: its address, as gRPC has it: `ipv4:192.0.2.1:41234`.
            reason: why it was refused.
        """
        principal = call.principal
        who = (principal.user, principal.serial) if principal is not None else self._holder(call.certificate_pem)
        user, serial = who or (None, None)
        host, port = address(peer)
        if code != "OK" and not self._share.take(user or host, reason or code):
            return None
        what = _WHAT.get(call.method, _REFUSED)
        event = {
            "what": what,
            "user": user,
            "serial": None if serial is None else f"{serial:x}",
            "token": call.token_id or (None if principal is None else principal.token_id),
            "host": host,
            "port": port,
            "transport": transport,
            "rpc": call.method,
            "correlation_id": call.batch or call.correlation_id,
            **call.audit,
            "code": code,
            "reason": reason or None,
        }
        sync = self.syncs_each or code != "OK" or what not in (SUBMIT, CANCEL)
        return self.log.append({key: value for key, value in event.items() if value is not None}, sync=sync)

    def changed(self, what: str, fields: Mapping[str, object]) -> None:
        """The configuration changed, or did not, or what callers are judged by. The line of the call that had it
        changed says so, else one of its own."""
        if (call := current()) is not None:
            call.audit.update(fields)
        else:
            self.log.append({"what": what, **fields})

    async def close(self, last: Mapping[str, object]) -> None:
        """Tells what was left out, and `last`; then closes the log."""
        self._share.end()
        await self.log.close(last)


def address(peer: str) -> tuple[str, int | None]:
    """Host and port of a peer as gRPC names it: `ipv4:192.0.2.1:41234`, `ipv6:%5B2001:db8::1%5D:41234`."""
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return host.strip("[]") or peer, int(port) if port.isascii() and port.isdecimal() else None
