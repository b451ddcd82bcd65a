"""`/openapi.json`: the routes as OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.1), from the descriptors alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.rpc import status_pb2

from jobworker.server.rest import answer, body, comments, decode, fields, stream
from jobworker.server.rest.resume import LAST_EVENT_ID
from jobworker.server.rest.schemas import Schema, Schemas
from jobworker.server.rest.transcode import STREAM_LOGS
from jobworker.server.rpc.interceptors import CORRELATION_METADATA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jobworker.server.rest.routes import Route, Routes

_DESCRIPTION = """The same service as over gRPC, over the same mutual TLS: every call needs a client certificate and,
but for the login, a token that was issued to that certificate's key. Messages are in the proto3 JSON mapping; names of
fields are taken in both spellings, `jobIndex` and `job_index`.

Failures are a `google.rpc.Status`, as their documentation says. A stream is a JSON object a line, `{"result": ...}`, or
server-sent events where `Accept` asks for `text/event-stream`. The header `grpc-timeout` (`5S`, `100m`) is the call's
deadline."""
# A client names its batch in this header; on other calls it says nothing.
_NAMES_A_BATCH = ("/jobworker.v1.JobScheduleService/ExecuteJob", "/jobworker.v1.JobScheduleService/ExecuteJobs")
_BATCH, _JOB = "correlation_id", "job_index"
_VERBS = ("GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE")  # those that a path item may have


def document(routes: Routes, *, version: str, needs_token: Callable[[str], bool]) -> dict[str, Any]:
    """The description, as a JSON value. `needs_token` tells of a method, by its full name, whether it takes a token."""
    texts = comments.load()
    schemas = Schemas(texts)
    paths: dict[str, dict[str, Any]] = {}
    services: dict[str, dict[str, str]] = {}
    operations: dict[str, Route] = {}  # by operationId
    for route in routes:
        if route.verb not in _VERBS:
            continue
        service = route.method.descriptor.containing_service
        services[service.full_name] = {"name": service.name, **comments.of(texts, service.full_name)}
        item = paths.setdefault(route.template.text, {})
        operation = _operation(route, schemas, texts, taken=_operation_ids(paths))
        if not needs_token(route.method.name):
            operation["security"] = [{"certificate": []}]
        item[route.verb.lower()] = operation
        operations[operation["operationId"]] = route
    _link(paths, operations)
    return {
        "openapi": "3.1.0",
        "info": {"title": "jobworker", "version": version, "description": _DESCRIPTION},
        "tags": list(services.values()),
        "paths": dict(sorted(paths.items())),
        "security": [{"certificate": [], "token": []}],
        "components": {
            "schemas": {"Status": _status_schema(schemas), **schemas.components},
            "responses": {
                "Failure": {
                    "description": "The call failed; the HTTP status goes with the code.",
                    "content": {answer.JSON: {"schema": {"$ref": "#/components/schemas/Status"}}},
                }
            },
            "securitySchemes": {
                "certificate": {"type": "mutualTLS", "description": "A certificate of the service's own authority."},
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
    }


def _link(paths: Mapping[str, Mapping[str, Any]], routes: Mapping[str, Route]) -> None:
    """From each answer that names a batch to each operation on one: OpenAPI's Link Objects."""
    links = {}
    for name, route in routes.items():
        variables = route.template.variables
        if _BATCH in variables:
            parameters = {f"path.{_BATCH}": "$response.body#/correlationId"}
            # Every batch has a first job.
            parameters |= {f"path.{variable}": "0" for variable in variables if variable == _JOB}
            links[name] = {"operationId": name, "parameters": parameters}
    for item in paths.values():
        for operation in item.values():
            method = routes[operation["operationId"]].method
            if not method.streams_out and _BATCH in method.descriptor.output_type.fields_by_name:
                operation["responses"]["200"]["links"] = links


def _operation_ids(paths: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {operation["operationId"] for item in paths.values() for operation in item.values()}


def _operation(route: Route, schemas: Schemas, texts: Mapping[str, str], *, taken: set[str]) -> dict[str, Any]:
    method = route.method
    descriptor = method.descriptor
    text = texts.get(descriptor.full_name, "")
    name = descriptor.name
    while name in taken:  # of another binding of the same method
        name = f"{name}{route.verb.title()}"
    return {
        "operationId": name,
        "tags": [descriptor.containing_service.name],
        "summary": descriptor.name,
        **({"description": text} if text else {}),
        "parameters": [*_parameters(route, schemas, texts), *_headers(route)],
        **_request_body(route, schemas),
        "responses": {
            "200": _response(route, schemas),
            **({"204": {"description": "Every log was sent before the last event."}} if _resumes(route) else {}),
            "default": {"$ref": "#/components/responses/Failure"},
        },
    }


def _parameters(route: Route, schemas: Schemas, texts: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    request = route.method.descriptor.input_type
    for path in route.template.variables:
        field = _field(request, path)
        yield {
            "name": path,
            "in": "path",
            "required": True,
            **comments.of(texts, field.full_name),
            "schema": {**schemas.parameter(field), **_not_empty(field)},
        }
    if route.body == "*":
        return
    bound = {*route.template.variables, route.body}
    for path, field in _leaves(request, "", ()):
        if path not in bound and path.partition(".")[0] not in bound:
            one = schemas.parameter(field)
            yield {
                "name": path,
                "in": "query",
                **comments.of(texts, field.full_name),
                "schema": {"type": "array", "items": one} if field.is_repeated else one,
            }


def _field(message: Any, path: str) -> Any:
    *parents, last = path.split(".")
    for name in parents:
        message = message.fields_by_name[name].message_type
    return message.fields_by_name[last]


def _not_empty(field: Any) -> Schema:
    """An empty segment is another path."""
    return {"minLength": 1} if field.cpp_type == field.CPPTYPE_STRING else {}


def _leaves(message: Any, prefix: str, parents: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """The fields that a query can set."""
    for field in message.fields:
        path, kind = f"{prefix}{field.name}", field.message_type
        if kind is None or fields.is_well_known(kind.full_name):
            yield path, field
        elif not field.is_repeated and not decode.is_map(field) and kind.full_name not in parents:
            yield from _leaves(kind, f"{path}.", (*parents, kind.full_name))


def _headers(route: Route) -> Iterator[dict[str, Any]]:
    if route.method.name in _NAMES_A_BATCH:
        yield {
            "name": CORRELATION_METADATA,
            "in": "header",
            "description": "The batch's name, chosen by the client: a UUIDv7 within a day of the server's clock. "
            "The call is then safe to repeat.",
            "schema": {"type": "string", "format": "uuid"},
        }
    if _resumes(route):
        yield {
            "name": LAST_EVENT_ID,
            "in": "header",
            "description": "Of server-sent events: the id of the last one, after which the stream is to go on.",
            "schema": {"type": "string"},
        }


def _request_body(route: Route, schemas: Schemas) -> dict[str, Any]:
    if not route.body:
        return {}
    request = route.method.descriptor.input_type
    if route.body == "*":
        schema = schemas.input(request)
    else:
        kind = request.fields_by_name[route.body].message_type
        schema = schemas.input(kind) if kind is not None else {}
    if not route.method.streams_in:
        return {"requestBody": {"content": {answer.JSON: {"schema": schema}}}}
    return {
        "requestBody": {
            "required": True,
            "description": f"One {request.name} a line, as JSON: {schema.get('$ref', '')}.",
            "content": {body.LINES_TYPES[0]: {"schema": {"type": "string", "contentMediaType": body.LINES_TYPES[0]}}},
        }
    }


def _response(route: Route, schemas: Schemas) -> dict[str, Any]:
    kind = route.method.descriptor.output_type
    if route.response_body:
        kind = kind.fields_by_name[route.response_body].message_type or kind
    schema = schemas.output(kind)
    if not route.method.streams_out:
        return {"description": kind.name, "content": {answer.JSON: {"schema": schema}}}
    return {
        "description": f'A stream. Each line: {{"result": {kind.name}}}; a stream that failed ends with '
        '{"error": Status}. As server-sent events: data is the message itself, and the stream ends with an event named '
        f'"end", or "failed" with a Status. {kind.name}: {schema["$ref"]}.',
        "content": {one.content_type: {"schema": {"type": "string"}} for one in (stream.Lines, stream.Events)},
    }


def _status_schema(schemas: Schemas) -> Schema:
    schemas.output(status_pb2.Status.DESCRIPTOR)
    found = schemas.components.pop("Status")
    found["description"] = (
        "google.rpc.Status: code is google.rpc.Code, message is for people, details are for programs."
    )
    return found


def _resumes(route: Route) -> bool:
    return route.method.name == STREAM_LOGS
