"""What every call passes: certificate, token, role, and how errors come back."""

import errno

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from jobworker.server import errors
from jobworker.server.errors import AuthReason, ExhaustedError, JobworkerError, UnavailableError
from jobworker.server.rpc import status as statuses
from jobworker.v1 import auth_pb2, query_pb2, schedule_pb2
from tests.harness.pki import make_pki
from tests.rpc.conftest import Client, Served, detail, error_of

ANY_BATCH = query_pb2.GetBatchRequest(correlation_id="019312d4-5c00-7abc-8def-0123456789ab")


async def test_a_login_gives_a_token_that_lets_calls_in(served: Served) -> None:
    alice = served.bare_client()
    status = await error_of(alice.call(alice.query.GetBatch, ANY_BATCH))
    assert status.code == code_pb2.UNAUTHENTICATED
    info = detail(status, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == (AuthReason.TOKEN_MISSING, "jobworker")
    token = await alice.login()
    assert token.expires_at.seconds > 0
    assert (await error_of(alice.call(alice.query.GetBatch, ANY_BATCH))).code == code_pb2.NOT_FOUND


async def test_a_wrong_password_is_refused_with_a_reason(served: Served) -> None:
    alice = served.bare_client()
    status = await error_of(alice.call(alice.auth.Login, auth_pb2.LoginRequest(username="alice", password="wrong")))
    assert status.code == code_pb2.UNAUTHENTICATED
    assert detail(status, error_details_pb2.ErrorInfo).reason == AuthReason.LOGIN_FAILED


async def test_a_token_of_another_is_worth_nothing(served: Served) -> None:
    alice = await served.client("alice")
    bob = served.bare_client("bob")
    bob.metadata = alice.metadata
    status = await error_of(bob.call(bob.query.GetBatch, ANY_BATCH))
    assert detail(status, error_details_pb2.ErrorInfo).reason == AuthReason.TOKEN_FOREIGN


async def test_two_tokens_are_none(served: Served) -> None:
    alice = await served.client()
    alice.metadata *= 2
    status = await error_of(alice.call(alice.query.GetBatch, ANY_BATCH))
    assert detail(status, error_details_pb2.ErrorInfo).reason == AuthReason.TOKEN_MALFORMED


async def test_metadata_that_names_a_user_changes_nothing(served: Served) -> None:
    batch = served.batch(1, user="alice")
    bob = await served.client("bob")
    request = query_pb2.GetBatchRequest(correlation_id=batch.header.correlation_id)
    for name in ("user", "x_user", "x_forwarded_user", "x_forwarded_client_cert"):
        status = await error_of(bob.call(bob.query.GetBatch, request, **{name: "alice"}))
        assert status.code == code_pb2.NOT_FOUND


async def test_a_viewer_may_not_submit(served: Served) -> None:
    vic = await served.client("vic")
    status = await error_of(vic.call(vic.schedule.ExecuteJob, schedule_pb2.JobRequest(command="true")))
    assert status.code == code_pb2.PERMISSION_DENIED
    assert detail(status, error_details_pb2.ErrorInfo).reason == AuthReason.ROLE_INSUFFICIENT


async def test_no_handshake_without_a_certificate_or_with_a_foreign_one(
    served: Served, tmp_path_factory: pytest.TempPathFactory
) -> None:
    foreign = make_pki(tmp_path_factory.mktemp("foreign") / "pki")
    ca = (served.pki.client("alice") / "ca.crt").read_bytes()
    bundle = foreign.client("alice")
    for credentials in (
        grpc.ssl_channel_credentials(ca),
        grpc.ssl_channel_credentials(ca, (bundle / "tls.key").read_bytes(), (bundle / "tls.crt").read_bytes()),
    ):
        async with grpc.aio.secure_channel(f"localhost:{served.server.port}", credentials) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
            assert (await error_of(check)).code == code_pb2.UNAVAILABLE
    assert not served.log.of("rpc")


async def test_garbage_is_an_invalid_argument_and_not_a_stack_trace(served: Served) -> None:
    alice = await served.client()
    garbage = b"\x0a\xff\xff\xff\xff\x0f"
    unary = alice.channel.unary_unary("/jobworker.v1.JobQueryService/GetBatch")
    status = await error_of(unary(garbage, metadata=alice.metadata))
    assert (status.code, status.message) == (code_pb2.INVALID_ARGUMENT, "request: is not a message of this method")
    stream = alice.channel.stream_unary("/jobworker.v1.JobScheduleService/ExecuteJobs")
    status = await error_of(stream(iter([garbage]), metadata=alice.metadata))
    assert status.code == code_pb2.INVALID_ARGUMENT


async def test_a_message_over_the_limit_is_refused(served: Served) -> None:
    alice = await served.client()
    large = schedule_pb2.JobRequest(command="true", stdin=bytes(5 << 20))
    for method, request in ((alice.schedule.ExecuteJob, large), (alice.schedule.ExecuteJobs, iter([large]))):
        status = await error_of(alice.call(method, request))
        assert status.code == code_pb2.RESOURCE_EXHAUSTED
    assert served.leftovers() == []


async def test_a_method_that_is_not_there_is_unimplemented(served: Served) -> None:
    alice = await served.client()
    call = alice.channel.unary_unary("/jobworker.v1.JobQueryService/Nothing")(b"", metadata=alice.metadata)
    assert (await error_of(call)).code == code_pb2.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(errno.EMFILE, "x"), code_pb2.RESOURCE_EXHAUSTED, "the service has too many files open"),
        (OSError(errno.ENFILE, "x"), code_pb2.RESOURCE_EXHAUSTED, "the service has too many files open"),
        (OSError(errno.ENOMEM, "x"), code_pb2.RESOURCE_EXHAUSTED, "the service has no memory left"),
        (MemoryError(), code_pb2.RESOURCE_EXHAUSTED, "the service has no memory left"),
        (OSError(errno.ENOSPC, "x"), code_pb2.RESOURCE_EXHAUSTED, "the disk is full"),
        (OSError(errno.EIO, "x"), code_pb2.UNAVAILABLE, "the service's disk fails"),
    ],
)
async def test_what_the_service_is_short_of_is_told_and_why_is_in_the_log(
    served: Served, error: Exception, code: int, message: str
) -> None:
    alice = await served.client()
    batch = served.batch(1)

    def broken() -> dict[object, int]:
        raise error

    batch.counts = broken  # type: ignore[method-assign, assignment]
    request = query_pb2.GetBatchRequest(correlation_id=batch.header.correlation_id)
    status = await error_of(alice.call(alice.query.GetBatch, request))
    assert (status.code, status.message) == (code, message)
    assert detail(status, error_details_pb2.RetryInfo).retry_delay.seconds > 0
    (line,) = served.log.of("rpc failed")
    assert type(error).__name__ in line["cause"]


async def test_a_failure_of_ours_tells_the_caller_an_incident_and_nothing_else(served: Served) -> None:
    alice = await served.client()
    batch = served.batch(1)

    words = "a secret"

    def broken() -> dict[object, int]:
        raise ZeroDivisionError(words)

    batch.counts = broken  # type: ignore[method-assign, assignment]
    request = query_pb2.GetBatchRequest(correlation_id=batch.header.correlation_id)
    status = await error_of(alice.call(alice.query.GetBatch, request))
    (line,) = served.log.of("rpc broke")
    assert status.code == code_pb2.INTERNAL
    assert status.message == f"internal error, see incident {line['incident']} in the log"
    assert line["problem"] == "ZeroDivisionError"
    assert "in broken" in str(line["traceback"])
    assert "a secret" not in str(line)
    del batch.counts  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ExhaustedError("full", subject="user:alice", retry_after_seconds=1.5), code_pb2.RESOURCE_EXHAUSTED),
        (UnavailableError("stops", retry_after_seconds=1.5), code_pb2.UNAVAILABLE),
    ],
)
def test_what_passes_says_when_to_come_again(error: JobworkerError, code: int) -> None:
    status = statuses.of(error)
    assert status.code == code
    assert detail(status, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() == 1500


@pytest.mark.parametrize("kind", errors.JobworkerError.__subclasses__())
def test_every_error_of_the_domain_has_a_status(kind: type[errors.JobworkerError]) -> None:
    made = {
        errors.InvalidRequestError: lambda: errors.invalid("field", "is wrong"),
        errors.UnauthenticatedError: lambda: errors.UnauthenticatedError(AuthReason.TOKEN_EXPIRED, "expired"),
        ExhaustedError: lambda: ExhaustedError("full", subject="service", retry_after_seconds=1),
        UnavailableError: lambda: UnavailableError("stops", retry_after_seconds=1),
        errors.DamagedError: lambda: errors.DamagedError("unreadable", path="/secret/place"),
    }
    status = statuses.of(made.get(kind, lambda: kind("why"))())
    assert status.code not in (code_pb2.OK, code_pb2.UNKNOWN, code_pb2.INTERNAL)
    assert b"/secret" not in status.SerializeToString()


async def test_health_and_reflection_need_a_certificate_and_no_token(served: Served) -> None:
    alice = served.bare_client()
    health = health_pb2_grpc.HealthStub(alice.channel)
    for service in ("", "jobworker.v1.JobQueryService"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert (await error_of(health.Check(health_pb2.HealthCheckRequest(service="no")))).code == code_pb2.NOT_FOUND
    reflection = reflection_pb2_grpc.ServerReflectionStub(alice.channel)
    asked = reflection.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    names = {service.name async for answer in asked for service in answer.list_services_response.service}
    assert {"jobworker.v1.AuthService", "jobworker.v1.JobScheduleService", "jobworker.v1.JobQueryService"} <= names


async def test_anothers_batch_is_not_there_but_for_an_admin(served: Served) -> None:
    batch = served.batch(1, user="alice")
    request = query_pb2.GetBatchRequest(correlation_id=batch.header.correlation_id)
    admin, bob = await served.client("admin"), await served.client("bob")

    async def state(client: Client) -> int:
        return int((await client.call(client.query.GetBatch, request)).state)

    assert await state(admin) == 1
    assert (await error_of(bob.call(bob.query.GetBatch, request))).code == code_pb2.NOT_FOUND
