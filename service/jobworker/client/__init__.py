"""The client SDK: batches submitted, followed, waited for and cancelled over mutual TLS.

    login = PasswordLogin("admin", password)
    async with Client(address="localhost:50051", bundle="var/pki/clients/admin", token=login) as client:
        accepted = await client.submit(JobRequest(command="echo hello"))
        async for chunk in client.follow(accepted.correlation_id):
            sys.stdout.buffer.write(chunk.data)

`jobworker.client.sync` has the same without asyncio.
"""

from jobworker.client.bundle import Bundle, ExposedFileWarning
from jobworker.client.connect import Client
from jobworker.client.errors import (
    AlreadyExistsError,
    BundleError,
    CutError,
    DeadlineExceededError,
    ExhaustedError,
    FailedPreconditionError,
    HandshakeError,
    InvalidArgumentError,
    JobworkerError,
    NotFoundError,
    OutOfRangeError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    UnreachableError,
    Violation,
)
from jobworker.client.ids import new_correlation_id
from jobworker.client.retry import Retry
from jobworker.client.tokens import FixedToken, PasswordLogin, Token, TokenSource
from jobworker.v1.admin_pb2 import Config, RetentionPlan, ServiceStatus
from jobworker.v1.auth_pb2 import WhoAmIResponse
from jobworker.v1.job_pb2 import Batch, BatchOptions, Job, Limits
from jobworker.v1.query_pb2 import LogChunk, LogCursor, SearchJobResponse
from jobworker.v1.schedule_pb2 import JobRequest, JobResponse

__all__ = [
    "AlreadyExistsError",
    "Batch",
    "BatchOptions",
    "Bundle",
    "BundleError",
    "Client",
    "Config",
    "CutError",
    "DeadlineExceededError",
    "ExhaustedError",
    "ExposedFileWarning",
    "FailedPreconditionError",
    "FixedToken",
    "HandshakeError",
    "InvalidArgumentError",
    "Job",
    "JobRequest",
    "JobResponse",
    "JobworkerError",
    "Limits",
    "LogChunk",
    "LogCursor",
    "NotFoundError",
    "OutOfRangeError",
    "PasswordLogin",
    "PermissionDeniedError",
    "RetentionPlan",
    "Retry",
    "SearchJobResponse",
    "ServiceStatus",
    "Token",
    "TokenSource",
    "UnauthenticatedError",
    "UnavailableError",
    "UnreachableError",
    "Violation",
    "WhoAmIResponse",
    "new_correlation_id",
]
