"""The channel to the service: another one once the bundle's folder holds another bundle. Calls that are under way go on
over the one that they began on, which is closed after the last of them.

Nothing here knows what a call is about, or whose.
"""

from __future__ import annotations

import ipaddress
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from jobworker.client.bundle import Bundle, BundleFolder
from jobworker.v1.admin_pb2_grpc import AdminServiceStub
from jobworker.v1.auth_pb2_grpc import AuthServiceStub
from jobworker.v1.query_pb2_grpc import JobQueryServiceStub
from jobworker.v1.schedule_pb2_grpc import JobScheduleServiceStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MESSAGE_BYTES = 64 << 20  # gRPC's own limit for what is received is 4 MiB


class Link:
    """One channel with mutual TLS."""

    def __init__(self, *, address: str, bundle: Bundle, server_name: str | None) -> None:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=bundle.ca, private_key=bundle.key, certificate_chain=bundle.certificate
        )
        self.channel = grpc.aio.secure_channel(address, credentials, options=_options(address, server_name))
        self.auth = AuthServiceStub(self.channel)
        self.schedule = JobScheduleServiceStub(self.channel)
        self.query = JobQueryServiceStub(self.channel)
        self.admin = AdminServiceStub(self.channel)
        self.bundle = bundle
        self.users = 0  # calls under way


class Links:
    """The channel that new calls are made over, and those before it that still have calls. Of one event loop."""

    def __init__(self, *, address: str, bundle: Bundle | BundleFolder, server_name: str | None) -> None:
        self.bundle = bundle
        self._address = address
        self._server_name = server_name
        self.newest = self._open(bundle)
        self._before: list[Link] = []
        self._lent: list[Link] = []  # whose calls are not counted

    def lend(self) -> grpc.aio.Channel:
        """The channel, for calls that are not made here: it is closed with everything else."""
        self.look()
        if self.newest not in self._lent:
            self._lent.append(self.newest)
        return self.newest.channel

    @asynccontextmanager
    async def using(self) -> AsyncIterator[Link]:
        """The link for one call, as long as that lasts."""
        self.look()
        link = self.newest
        link.users += 1
        try:
            yield link
        finally:
            link.users -= 1
            await self._close_those_done_with()

    def look(self, *, now: bool = False) -> bool:
        """Whether there is a new bundle, over which calls go from now on. Looks at most once a second, or `now`."""
        if isinstance(self.bundle, Bundle):
            return False
        if not self.bundle.renewed(now=now):
            return False
        self._before.append(self.newest)
        self.newest = self._open(self.bundle)
        return True

    async def close(self) -> None:
        """Ends every call."""
        for link in (*self._before, self.newest):
            await link.channel.close()

    async def _close_those_done_with(self) -> None:
        for link in [link for link in self._before if not link.users and link not in self._lent]:
            self._before.remove(link)
            await link.channel.close()

    def _open(self, bundle: Bundle | BundleFolder) -> Link:
        now = bundle if isinstance(bundle, Bundle) else bundle.bundle
        return Link(address=self._address, bundle=now, server_name=self._server_name)


def host_of(address: str) -> str:
    """The host of `host:port`, without the brackets of an IPv6 address."""
    return address.rpartition(":")[0].strip("[]")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name alone (RFC 6761 section 6.3)."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _options(address: str, server_name: str | None) -> list[tuple[str, int | str]]:
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
        ("grpc.max_send_message_length", MESSAGE_BYTES),
        # A service that vanished without a word (a cable, a firewall) is noticed in 40 s, on a silent stream too.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        # A restarted service is found soon; the defaults wait up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # Clients of one process would share a connection, and with it the pauses after a failure.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if is_loopback(host_of(address)):
        options.append(("grpc.enable_http_proxy", 0))  # where https_proxy is set, gRPC asks it for this machine too
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    return options
