"""Users of the shared service over REST."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import gateway
from tests.harness.rest import Rest, rest
from tests.harness.service import Api, Service


@pytest.fixture
def ours(shared_service: Service) -> Rest:
    """Alice, an operator."""
    return rest(shared_service)


@pytest.fixture(scope="session")
def gateway_port(shared_service: Service) -> Iterator[int]:
    """A real grpc-gateway in front of the shared service, which calls as alice."""
    with gateway.running(grpc_port=shared_service.port, bundle=shared_service.pki / "clients" / "alice") as port:
        yield port


@pytest.fixture
def theirs(gateway_port: int, ours: Rest) -> Rest:
    """Alice, by way of the gateway, with the same token."""
    return Rest(gateway_port, context=None, token=ours.token)


@pytest.fixture
def api(alice: Api) -> Api:
    """Alice over gRPC."""
    return alice
