"""Path and query into the fields of a request: nested (`limits.memory_bytes=1`), repeated (`job_index=1&job_index=2`)
and map ones (`labels[team]=a`)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from jobworker.server.errors import InvalidRequestError, invalid
from jobworker.server.rest import decode, fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from google.protobuf.descriptor import FieldDescriptor
    from google.protobuf.message import Message

MAX_PARAMETERS = 2000  # as many as a list of jobs has in a line of 16 KiB, and 5 ms of work
_ENTRY = re.compile(r"(.+)\[([^\]]*)\]")


def put_path(message: Message, variables: Mapping[str, str]) -> None:
    """Sets the fields that a path binds; what a body said of them gives way.

    Raises:
        InvalidRequestError: a value is not of its field's type.
    """
    for path, text in variables.items():
        owner, field = _resolve(message, path)
        if field is None:
            raise invalid(path, "is not a field")  # routes.py has checked it
        owner.ClearField(field.name)
        _put(owner, field, [text], path)


def put_query(message: Message, parameters: Iterable[tuple[str, str]], *, bound: Iterable[str]) -> None:
    """Sets the fields that a query names; those that are `bound` by path or body already, it cannot change.

    Raises:
        InvalidRequestError: a parameter names no field, or its value is not of the field's type.
    """
    # A field's two spellings are one parameter, named as it was the first time.
    values: dict[tuple[str, ...], tuple[str, list[str]]] = {}
    for name, text in parameters:
        if name == "":
            raise invalid("query", "has a parameter without a name")
        values.setdefault(_canonical(message, name), (name, []))[1].append(text)
    taken = {_canonical(message, path) for path in bound}
    for canonical, (name, texts) in values.items():
        if canonical in taken:
            continue
        entry = _ENTRY.fullmatch(name)
        owner, field = _resolve(message, entry.group(1) if entry else name)
        if field is None or (entry is not None and not decode.is_map(field)):
            raise unknown(name, message)
        if entry is not None:
            _put_entry(owner, field, entry.group(2), texts, name)
        else:
            _put(owner, field, texts, name)


def unknown(name: str, message: Message) -> InvalidRequestError:
    """The refusal of a parameter that names nothing."""
    return invalid(name, f"is not a query parameter here ({message.DESCRIPTOR.name} has no such field to be set so)")


def _put(owner: Message, field: FieldDescriptor, texts: list[str], path: str) -> None:
    if decode.is_map(field):
        raise invalid(path, f"is a map: set an entry, {path}[key]")
    if len(texts) > 1 and not field.is_repeated:
        raise invalid(path, "is given twice")
    decode.check_oneof(owner, field, path)
    kind = field.message_type
    if kind is not None and not fields.is_well_known(kind.full_name):
        raise invalid(
            path, f"is a message: set its fields, {path}.{kind.fields[0].name}" if kind.fields else "is empty"
        )
    if field.is_repeated:
        target = getattr(owner, field.name)
        for text in texts:
            if kind is not None:
                _put_message(target.add(), text, path)
            else:
                target.append(fields.from_text(field, text, path))
    elif kind is not None:
        target = getattr(owner, field.name)
        target.SetInParent()
        _put_message(target, texts[0], path)
    else:
        setattr(owner, field.name, fields.from_text(field, texts[0], path))


def _put_message(message: Message, text: str, path: str) -> None:
    # Durations, times and masks are strings in JSON; the others are what the text says, read as JSON.
    strings = ("Duration", "Timestamp", "FieldMask", "StringValue", "BytesValue")
    plain = message.DESCRIPTOR.name in strings
    value = text if plain else decode.parse(text.encode(errors="replace"), path)
    decode.check_single(value, path)
    fields.put_well_known(message, value, path)


def _put_entry(owner: Message, field: FieldDescriptor, key: str, texts: list[str], path: str) -> None:
    kind = field.message_type
    assert kind is not None  # noqa: S101  (a map has one)
    keys, values = kind.fields_by_name["key"], kind.fields_by_name["value"]
    if values.message_type is not None:
        raise invalid(path, "is a message, and cannot be given in a query")
    if len(texts) > 1:
        raise invalid(path, "is given twice")
    getattr(owner, field.name)[fields.from_text(keys, key, path)] = fields.from_text(values, texts[0], path)


def _resolve(message: Message, path: str) -> tuple[Message, FieldDescriptor | None]:
    """The message that has the last field of a path, and that field; None: there is no such field."""
    *parents, last = path.split(".")
    for name in parents:
        field = decode.field_of(message.DESCRIPTOR, name)
        if field is None or field.message_type is None or field.is_repeated:
            return message, None
        if fields.is_well_known(field.message_type.full_name):
            return message, None
        message = getattr(message, field.name)
    return message, decode.field_of(message.DESCRIPTOR, last)


def _canonical(message: Message, path: str) -> tuple[str, ...]:
    """A path by the fields' names in the proto, however they were written; of a map's entry, with its key."""
    entry = _ENTRY.fullmatch(path)
    names = []
    current: Any = message.DESCRIPTOR
    for name in (entry.group(1) if entry else path).split("."):
        field = decode.field_of(current, name) if current is not None else None
        names.append(name if field is None else field.name)
        current = field.message_type if field is not None else None
    return (*names, f"[{entry.group(2)}]") if entry else tuple(names)
