"""Values of single fields, from JSON and from text (a path or a query): the proto3 JSON mapping, strictly. What the
mapping does not allow is refused, never bent (https://protobuf.dev/programming-guides/json)."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor

from jobworker.server.errors import invalid

if TYPE_CHECKING:
    from google.protobuf.message import Message

_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
_INTEGER = re.compile(r"-?[0-9]{1,20}")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?|NaN|-?Infinity")
# As Go's strconv.ParseBool, which the gateways that people know use for queries.
_BOOLEANS = {
    **dict.fromkeys(("true", "True", "TRUE", "t", "T", "1"), True),
    **dict.fromkeys(("false", "False", "FALSE", "f", "F", "0"), False),
}

# Messages with a JSON form of their own; those whose form is a string, with what it has to look like.
_STRINGS: dict[str, tuple[re.Pattern[str], str]] = {
    "google.protobuf.Duration": (re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,9})?s"), 'is not a duration such as "3.5s"'),
    "google.protobuf.Timestamp": (
        re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})"),
        'is not a time such as "2026-01-31T12:00:00Z" (RFC 3339)',
    ),
    "google.protobuf.FieldMask": (re.compile(r"([\w.]+(,[\w.]+)*)?", re.ASCII), 'is not a field mask such as "a.b,c"'),
}
_OTHERS = {
    "google.protobuf.Struct": "is not an object",
    "google.protobuf.ListValue": "is not an array",
    "google.protobuf.Value": "is not a JSON value",
    "google.protobuf.Any": "is not an object with @type",
    **{
        f"google.protobuf.{kind}Value": f"is not a {kind}"
        for kind in ("Bool", "String", "Bytes", "Double", "Float", "Int32", "Int64", "UInt32", "UInt64")
    },
}


def is_well_known(full_name: str) -> bool:
    """Whether a message has a JSON form of its own."""
    return full_name in _STRINGS or full_name in _OTHERS


def put_well_known(message: Message, value: Any, path: str) -> None:
    """Fills a message that has a JSON form of its own.

    Raises:
        InvalidRequestError: `value` is not of that form.
    """
    name = message.DESCRIPTOR.full_name
    form, problem = _STRINGS.get(name, (None, _OTHERS.get(name, "is not of its type")))
    if form is not None and not (isinstance(value, str) and form.fullmatch(value)):
        raise invalid(path, problem)
    try:
        json_format.ParseDict(value, message, max_recursion_depth=100)
    except (json_format.ParseError, ValueError, TypeError, AttributeError, RecursionError):
        raise invalid(path, problem) from None


def from_json(field: FieldDescriptor, value: Any, path: str) -> Any:
    """A scalar's value.

    Raises:
        InvalidRequestError: it is none.
    """
    kind = field.cpp_type
    if kind in _RANGES:
        return _integer(field, value, path)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        if not isinstance(value, bool):
            raise invalid(path, "is not true or false")
        return value
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return _enum(field, value, path)
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return _float(value, path)
    if not isinstance(value, str):
        raise invalid(path, "is not a string")
    return _bytes(value, path) if field.type == FieldDescriptor.TYPE_BYTES else _string(value, path)


def from_text(field: FieldDescriptor, text: str, path: str) -> Any:
    """A scalar's value, as it is written in a path, a query or as a map's key.

    Raises:
        InvalidRequestError: it is none.
    """
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if text not in _BOOLEANS:
            raise invalid(path, "is not true or false")
        return _BOOLEANS[text]
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM and _INTEGER.fullmatch(text):
        return _enum(field, int(text), path)
    return from_json(field, text, path)


def _integer(field: FieldDescriptor, value: Any, path: str) -> int:
    if isinstance(value, str):
        whole = _INTEGER.fullmatch(value) is not None
    else:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if not whole or isinstance(value, bool):
        raise invalid(path, "is not an integer")
    number = int(value)
    least, most = _RANGES[field.cpp_type]
    if not least <= number <= most:
        raise invalid(path, f"is not from {least} to {most}")
    return number


def _float(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise invalid(path, "is not a number")
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise invalid(path, "is not a number")
    try:
        return float(value)
    except OverflowError:
        raise invalid(path, "is too large") from None


def _enum(field: FieldDescriptor, value: Any, path: str) -> int:
    least, most = _RANGES[FieldDescriptor.CPPTYPE_INT32]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value  # proto3 enums are open: what a number means is decided by those who act on it
    kind = field.enum_type
    found = kind.values_by_name.get(value) if kind is not None and isinstance(value, str) else None
    if kind is None or found is None:
        raise invalid(path, f"is not a value of {kind.full_name if kind else 'its enum'}")
    return int(found.number)


def _string(value: str, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        raise invalid(path, "is not valid Unicode") from None
    return value


def _bytes(value: str, path: str) -> bytes:
    # No pattern over the whole of it: of six megabytes that takes a third of a second, without a pause.
    is_url = "-" in value or "_" in value  # RFC 4648 section 5
    digits = value.rstrip("=")
    if len(value) - len(digits) > 2 or (is_url and ("+" in value or "/" in value)):
        raise invalid(path, "is not base64")
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), altchars=b"-_" if is_url else None, validate=True)
    except ValueError:  # binascii.Error is one; so is what is not ASCII
        raise invalid(path, "is not base64") from None
