"""`jobworker healthcheck`: asks a running server for its health, as a client would: over the network and mutual TLS.

Knows nothing of the server's inside, and of its configuration only where it listens and where the PKI lies.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Before grpc is imported: it tells of each try to connect otherwise.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from jobpki.bundle import load_certificate
from jobpki.errors import PkiError
from jobpki.layout import CA_FILE, CERTIFICATE_FILE, KEY_FILE, Layout
from jobworker.server.config.sources import ConfigError, load

_LOCAL = "localhost"
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "[::]": "[::1]"}  # noqa: S104 - what to call them by


class UnhealthyError(Exception):
    """It does not serve, or that could not be found out; the message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to ask, with which bundle, and the name that is to be in the server's certificate (None: the host's)."""

    address: str
    bundle: Path
    server_name: str | None


def target(
    *,
    config_file: Path | None,
    environment: Mapping[str, str],
    address: str | None,
    bundle: Path | None,
    server_name: str | None,
) -> Target:
    """What was not said is taken from the server's configuration.

    Raises:
        UnhealthyError: that cannot be read.
    """
    try:
        settings = load(config_file, environment).settings
    except ConfigError as e:
        raise UnhealthyError(f"configuration: {e}") from e
    layout = Layout(settings.paths.pki)
    if address is None:
        host = settings.grpc.host
        address = f"{_EVERY_ADDRESS.get(host, f'[{host}]' if ':' in host else host)}:{settings.grpc.port}"
        # It is this machine's server, whatever names its certificate has.
        server_name = server_name or _own_name(layout)
    return Target(address=address, bundle=bundle or layout.health, server_name=server_name)


def ask_grpc(where: Target, *, service: str, timeout_seconds: float) -> str:
    """grpc.health.v1; returns what to print.

    Raises:
        UnhealthyError: it does not answer SERVING in time.
    """
    files = [_read(where.bundle / name) for name in (CA_FILE, KEY_FILE, CERTIFICATE_FILE)]
    credentials = grpc.ssl_channel_credentials(*files)
    options: list[tuple[str, int | str]] = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
    if where.server_name is not None:
        options.append(("grpc.ssl_target_name_override", where.server_name))
    with grpc.secure_channel(where.address, credentials, options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_seconds)
        except grpc.RpcError as e:
            raise UnhealthyError(f"{where.address}: {e.code().name}: {e.details()}") from e
    word = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise UnhealthyError(f"{where.address}: {word}")
    return f"{where.address}: {word}"


def ask_http(url: str, *, timeout_seconds: float) -> str:
    """A GET of a probe, /readyz say; returns what to print.

    Raises:
        UnhealthyError: it does not answer 200 in time.
    """
    if not url.startswith(("http://", "https://")):
        raise UnhealthyError(f"{url}: should begin with http:// or https://")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_seconds) as answer:
            status = int(answer.status)
    except urllib.error.HTTPError as e:
        text = e.read(200).decode(errors="replace").strip()
        raise UnhealthyError(f"{url}: {e.code} {e.reason}" + (f": {text}" if text else "")) from e
    except (OSError, ValueError) as e:
        raise UnhealthyError(f"{url}: {getattr(e, 'reason', None) or e}") from e
    if status != 200:
        raise UnhealthyError(f"{url}: answered {status}")
    return f"{url}: {status}"


def _own_name(layout: Layout) -> str:
    """A name that the server's certificate has: localhost where it may."""
    try:
        certificate = load_certificate(layout.server / CERTIFICATE_FILE)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (PkiError, x509.ExtensionNotFound):
        return _LOCAL
    have = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return _LOCAL if _LOCAL in have or not have else have[0]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise UnhealthyError(f"{path}: {e.strerror}") from e
