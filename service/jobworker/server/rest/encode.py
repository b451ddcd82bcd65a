"""Messages into JSON: the proto3 mapping with every field that has no presence, and null for messages that are unset,
as grpc-gateway writes them."""

from __future__ import annotations

import base64
import json
import secrets
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass

from jobworker.server.rest import decode, fields

if TYPE_CHECKING:
    from google.protobuf.message import Message

_ANY = "google.protobuf.Any"
_LARGE_BYTES = 4096


def to_object(message: Message) -> Any:
    """The JSON value of a message."""
    value = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    _put_nulls(message, value)
    return value


def to_bytes(value: Any) -> bytes:
    """A JSON value as text, on one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def to_text(message: Any) -> bytes:
    """A message as text; it is emptied of what is large.

    Base64 needs no escapes: of a log, looking for some takes ten times as long as all the rest.
    """
    large = [
        (field, value)
        for field, value in message.ListFields()
        if field.type == field.TYPE_BYTES and not field.is_repeated and len(value) >= _LARGE_BYTES
    ]
    for field, _ in large:
        setattr(message, field.name, b"")  # its oneof stays as it is
    members = to_object(message)
    marks = [secrets.token_hex(16) for _ in large]  # which no client can know, and have in another member
    for (field, _), mark in zip(large, marks, strict=True):
        members[field.json_name] = mark
    text = to_bytes(members)
    for (_, value), mark in zip(large, marks, strict=True):
        head, _, tail = text.partition(mark.encode())
        text = b"".join((head, base64.b64encode(value), tail))
    return text


def _put_nulls(message: Message, value: Any) -> None:
    """protobuf leaves unset messages out, where clients that know gateways expect a null."""
    name = message.DESCRIPTOR.full_name
    if name == _ANY:
        _put_nulls_of_any(message, value)
    if fields.is_well_known(name):
        return
    written = dict(value)
    value.clear()
    for field in message.DESCRIPTOR.fields:  # in the order of the proto: people read it too
        if field.json_name in written:
            value[field.json_name] = written[field.json_name]
        if field.message_type is not None:
            _put_nulls_of_field(message, field, value)


def _put_nulls_of_field(message: Message, field: Any, value: dict[str, Any]) -> None:
    name = field.json_name
    if decode.is_map(field):
        return  # of scalars, in this interface; of messages: protobuf's form as it is
    if field.is_repeated:
        for item, written in zip(getattr(message, field.name), value.get(name, ()), strict=False):
            _put_nulls(item, written)
    elif message.HasField(field.name):
        _put_nulls(getattr(message, field.name), value[name])
    elif field.containing_oneof is None:
        value[name] = None


def _put_nulls_of_any(message: Any, value: Any) -> None:
    pool = message.DESCRIPTOR.file.pool
    inner = GetMessageClass(pool.FindMessageTypeByName(message.TypeName()))()
    message.Unpack(inner)
    kind = value.pop("@type")
    _put_nulls(inner, value)
    members = dict(value)
    value.clear()
    value.update({"@type": kind, **members})
