"""The comments of the protos, by full name: the generated code leaves them out, the build keeps them beside it."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from google.protobuf import descriptor_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FILE = "comments.binpb"  # see build_protos.py

# Field numbers of descriptor.proto: a comment's place is a path of these and of positions (SourceCodeInfo.Location).
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6  # of a file
_FIELDS, _NESTED, _NESTED_ENUMS = 2, 3, 4  # of a message
_MEMBERS = 2  # values of an enum, methods of a service


def load() -> dict[str, str]:
    """Every comment, by the full name of what it stands before (`jobworker.v1.Job.index`); empty when the build left
    none."""
    try:
        encoded = resources.files("jobworker.v1").joinpath(_FILE).read_bytes()
    except FileNotFoundError:
        return {}
    files = descriptor_pb2.FileDescriptorSet.FromString(encoded)
    return {name: text for file in files.file for name, text in _of(file)}


def _of(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, str]]:
    names = dict(_names(file))
    for location in file.source_code_info.location:
        name = names.get(tuple(location.path))
        text = location.leading_comments or location.trailing_comments
        if name is not None and text:
            yield name, "\n".join(line.strip() for line in text.strip().splitlines())


def _names(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    for position, message in enumerate(file.message_type):
        yield from _names_of_message((_MESSAGES, position), f"{file.package}.{message.name}", message)
    for position, enum in enumerate(file.enum_type):
        yield from _names_of_enum((_ENUMS, position), file.package, enum)
    for position, service in enumerate(file.service):
        path, name = (_SERVICES, position), f"{file.package}.{service.name}"
        yield path, name
        for number, method in enumerate(service.method):
            yield (*path, _MEMBERS, number), f"{name}.{method.name}"


def _names_of_message(
    path: tuple[int, ...], name: str, message: descriptor_pb2.DescriptorProto
) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, name
    for position, field in enumerate(message.field):
        yield (*path, _FIELDS, position), f"{name}.{field.name}"
    for position, nested in enumerate(message.nested_type):
        yield from _names_of_message((*path, _NESTED, position), f"{name}.{nested.name}", nested)
    for position, enum in enumerate(message.enum_type):
        yield from _names_of_enum((*path, _NESTED_ENUMS, position), name, enum)


def _names_of_enum(
    path: tuple[int, ...], scope: str, enum: descriptor_pb2.EnumDescriptorProto
) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, f"{scope}.{enum.name}"
    for position, value in enumerate(enum.value):
        yield (*path, _MEMBERS, position), f"{scope}.{enum.name}.{value.name}"


def of(comments: Mapping[str, str], full_name: str) -> dict[str, str]:
    """What a schema says of it: `{"description": ...}`, or nothing."""
    text = comments.get(full_name)
    return {"description": text} if text else {}
