"""Which method answers which HTTP request: found from the methods' descriptors, no list is kept by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.api import annotations_pb2
from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass

from jobworker.server.rest.template import Template

if TYPE_CHECKING:
    from google.api.http_pb2 import HttpRule
    from google.protobuf.descriptor import Descriptor, MethodDescriptor
    from google.protobuf.message import Message

_ANY = "*"  # of a custom pattern: every HTTP method


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """A method of a service that is served. `name` is the full one, `/jobworker.v1.JobQueryService/GetBatch`."""

    name: str
    descriptor: MethodDescriptor
    handler: Any

    @property
    def streams_in(self) -> bool:
        """Whether it takes a stream."""
        return bool(self.handler.request_streaming)

    @property
    def streams_out(self) -> bool:
        """Whether it answers with a stream."""
        return bool(self.handler.response_streaming)

    def request(self) -> Message:
        """An empty request."""
        return GetMessageClass(self.descriptor.input_type)()

    def response(self, encoded: bytes) -> Message:
        """A response, from its encoded form."""
        return GetMessageClass(self.descriptor.output_type).FromString(encoded)


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One HTTP binding of a method. `body`: "" none, "*" the request, else the field that the body is."""

    verb: str
    template: Template
    body: str
    response_body: str
    method: Method


@dataclass(frozen=True, slots=True)
class Match:
    """The route of a request, and the values of its path; or (None) the HTTP methods that the path has, maybe none."""

    route: Route | None
    variables: Mapping[str, str]
    allowed: tuple[str, ...] = ()


class Routes:
    """All routes of the methods that are served."""

    def __init__(self, methods: Mapping[str, Any]) -> None:
        """Args:
            methods: gRPC method handlers by full name, as generated code makes them.

        Raises:
            ValueError: an annotation cannot be served; names the method.
        """
        found = [route for name, handler in methods.items() for route in _of(name, handler)]
        # Of two that match, the later one holds, as in grpc-gateway; and a verb is seen before a variable takes it in.
        found.reverse()
        self._routes = sorted(found, key=lambda route: not route.template.verb)

    def __iter__(self) -> Iterator[Route]:
        return reversed(self._routes)

    def match(self, verb: str, raw_path: str) -> Match:
        """Finds a route; HEAD is answered by GET's (RFC 9110 section 9.3.2)."""
        wanted = "GET" if verb == "HEAD" else verb
        allowed: set[str] = set()
        with_verb = False
        for route in self._routes:
            variables = route.template.match(raw_path)
            # A path with a verb of ours is that, and no name that happens to end so.
            if variables is None or (with_verb and not route.template.verb):
                continue
            with_verb = bool(route.template.verb)
            if route.verb in (wanted, _ANY):
                return Match(route, variables)
            allowed.add(route.verb)
        if "GET" in allowed:
            allowed.add("HEAD")
        return Match(None, {}, tuple(sorted(allowed)))


def _of(name: str, handler: Any) -> Iterator[Route]:
    service, _, short = name.removeprefix("/").partition("/")
    try:
        descriptor = descriptor_pool.Default().FindServiceByName(service).methods_by_name[short]
    except KeyError:
        return
    options = descriptor.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return
    rule = options.Extensions[annotations_pb2.http]
    method = Method(name=name, descriptor=descriptor, handler=handler)
    for one in (rule, *rule.additional_bindings):
        yield _route(one, method)


def _route(rule: HttpRule, method: Method) -> Route:
    kind = rule.WhichOneof("pattern")
    if kind is None:
        raise ValueError(f"{method.name}: its google.api.http rule has no pattern")
    verb, path = (rule.custom.kind, rule.custom.path) if kind == "custom" else (kind, getattr(rule, kind))
    template = Template.parse(path)
    request = method.descriptor.input_type
    for variable in template.variables:
        _check(request, variable, method)
    if rule.body not in ("", "*"):
        _check(request, rule.body, method)
    if rule.response_body:
        _check(method.descriptor.output_type, rule.response_body, method)
    return Route(verb=verb.upper(), template=template, body=rule.body, response_body=rule.response_body, method=method)


def _check(message: Descriptor, path: str, method: Method) -> None:
    current: Descriptor | None = message
    for name in path.split("."):
        if current is None or name not in current.fields_by_name:
            raise ValueError(f"{method.name}: its google.api.http rule names {path}, which {message.full_name} lacks")
        current = current.fields_by_name[name].message_type
