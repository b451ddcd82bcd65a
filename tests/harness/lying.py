"""A service whose every text is what an attacker would have it say: each string of each answer, or the error of each
call. Over real mutual TLS, as a client meets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from jobworker.v1 import admin_pb2, auth_pb2, job_pb2, query_pb2, schedule_pb2

_FILES = (admin_pb2, auth_pb2, query_pb2, schedule_pb2)


class LyingService:
    """`with` serves it; `refuses`: each call fails, with `text` as its message."""

    def __init__(self, pki: Path, text: str, *, refuses: bool = False) -> None:
        self.pki = pki
        self.passwords: dict[str, str] = {}
        self._text = text
        self._refuses = refuses
        self._server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        for file in _FILES:
            for service in descriptor_pool.Default().FindFileByName(file.DESCRIPTOR.name).services_by_name.values():
                handlers = {method.name: self._handler(method) for method in service.methods}
                generic = grpc.method_handlers_generic_handler(service.full_name, handlers)
                self._server.add_generic_rpc_handlers((generic,))
        folder = pki / "server"
        credentials = grpc.ssl_server_credentials(
            [((folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes())],
            root_certificates=(folder / "ca.crt").read_bytes(),
            require_client_auth=True,
        )
        self.port = self._server.add_secure_port("localhost:0", credentials)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    def _handler(self, method: MethodDescriptor) -> grpc.RpcMethodHandler[Any, Any]:
        takes = message_factory.GetMessageClass(method.input_type)
        gives = message_factory.GetMessageClass(method.output_type)

        def answers(_request: object, context: grpc.ServicerContext) -> Iterator[Message]:
            if self._refuses:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, self._text)
            answer = gives()
            fill(answer, self._text)
            yield from _last(answer)

        def answer(request: object, context: grpc.ServicerContext) -> Message:
            if method.client_streaming:
                for _ in request:  # type: ignore[attr-defined]
                    pass
            return next(answers(request, context))

        def stream(request: object, context: grpc.ServicerContext) -> Iterator[Message]:
            yield from answers(request, context)

        make: Callable[..., grpc.RpcMethodHandler[Any, Any]]
        if method.server_streaming:
            make, behaviour = grpc.unary_stream_rpc_method_handler, stream
        else:
            way = "stream" if method.client_streaming else "unary"
            make, behaviour = getattr(grpc, f"{way}_unary_rpc_method_handler"), answer  # type: ignore[assignment]
        return make(behaviour, request_deserializer=takes.FromString, response_serializer=gives.SerializeToString)


def fill(message: Message, text: str) -> None:
    """Every string that there is room for, one entry in each list; what a client waits for is over."""
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof is not None and message.WhichOneof(field.containing_oneof.name):
            continue
        if field.message_type is not None:
            _fill_message(getattr(message, field.name), field, text)
        elif field.type == FieldDescriptor.TYPE_STRING and field.is_repeated:
            getattr(message, field.name).append(text)
        elif not field.is_repeated and not field.name.startswith("next_"):
            value = _plain(field, text)
            if value is not None:
                setattr(message, field.name, value)


def _fill_message(value: Any, field: FieldDescriptor, text: str) -> None:
    kind = field.message_type
    if kind.GetOptions().map_entry:
        if kind.fields_by_name["value"].type == FieldDescriptor.TYPE_STRING:
            value[text] = text
    elif kind.name == "Value":
        value.string_value = text
    elif kind.file.name.startswith("jobworker"):
        fill(value.add() if field.is_repeated else value, text)


def _plain(field: FieldDescriptor, text: str) -> object:
    if field.type == FieldDescriptor.TYPE_STRING:
        return text
    if field.type == FieldDescriptor.TYPE_BOOL:
        return True
    if field.type == FieldDescriptor.TYPE_ENUM:
        return field.enum_type.values[-1].number  # of a state: one that is final
    return 1 if field.name == "job_count" else None


def _last(answer: Message) -> Iterator[Message]:
    """A stream of logs ends with an end, after a gap with its reason."""
    if isinstance(answer, query_pb2.LogChunk):
        answer.stream = job_pb2.LOG_STREAM_MERGED
    yield answer
    if isinstance(answer, query_pb2.LogChunk):
        ended = query_pb2.LogEnd(state=job_pb2.JOB_STATE_FAILED, exit_code=0)
        yield query_pb2.LogChunk(stream=job_pb2.LOG_STREAM_MERGED, end=ended)
