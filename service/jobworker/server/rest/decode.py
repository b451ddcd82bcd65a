"""JSON into messages, strictly: a field that does not exist, comes twice, or has a value of another type is refused
with its path (`jobs[3].limits.memory_bytes`)."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from jobworker.server.errors import invalid
from jobworker.server.rest import fields

if TYPE_CHECKING:
    from google.protobuf.descriptor import FieldDescriptor
    from google.protobuf.message import Message

# protobuf's own limit for nested messages (json_format.Parse, max_recursion_depth).
_MAX_DEPTH = 100
# Commas, brackets, braces and backslashes, inside of strings too: what a text holds and costs is known from these
# before it is parsed, which Python does without a pause.
_MAX_MARKS = 50_000


class Doubled(dict[str, Any]):
    """An object that names a member twice (`name`). It is refused where its path is known."""

    name = ""


def parse(text: bytes, path: str) -> Any:
    """The JSON value of a text; `path` is what it is called where it is none.

    Raises:
        InvalidRequestError: it is not JSON (RFC 8259), holds too much, or is nested too deeply.
    """
    if sum(map(text.count, (b",", b"[", b"{", b"\\"))) > _MAX_MARKS:
        raise invalid(path, f"has more than {_MAX_MARKS} commas, brackets, braces and backslashes")
    try:
        return json.loads(text.decode(), object_pairs_hook=_object, parse_constant=_not_a_constant)
    except UnicodeDecodeError:
        raise invalid(path, "is not UTF-8") from None
    except RecursionError:
        raise invalid(path, "is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise invalid(path, f"is not JSON: {error}") from None
    except ValueError:  # a number of thousands of digits, or NaN
        raise invalid(path, "is not JSON: a number that is none") from None


def fill(message: Message, value: Any, path: str, depth: int = 0) -> None:
    """Fills a message from a JSON value. `path` is the message's own, empty for the request.

    Raises:
        InvalidRequestError: it is not of the message's form.
    """
    here = path or "body"
    if depth > _MAX_DEPTH:
        raise invalid(here, "is nested too deeply")
    if fields.is_well_known(message.DESCRIPTOR.full_name):
        check_single(value, here)
        fields.put_well_known(message, value, here)
        return
    if not isinstance(value, dict):
        raise invalid(here, "is not an object")
    if isinstance(value, Doubled):
        doubled = field_of(message.DESCRIPTOR, value.name)
        raise invalid(join(path, value.name if doubled is None else doubled.name), "is given twice")
    seen: set[str] = set()
    for name, member in value.items():
        field = field_of(message.DESCRIPTOR, name)
        if field is None:
            raise invalid(join(path, name), f"is not a field of {message.DESCRIPTOR.name}")
        own = join(path, field.name)
        if field.name in seen:
            raise invalid(own, "is given twice")
        seen.add(field.name)
        if member is None and not _takes_null(field):
            continue
        check_oneof(message, field, own)
        put(message, field, member, own, depth)


def put(message: Message, field: FieldDescriptor, value: Any, path: str, depth: int = 0) -> None:
    """Sets one field from a JSON value that is not null.

    Raises:
        InvalidRequestError: it is not of the field's type.
    """
    if is_map(field):
        _put_map(message, field, value, path, depth)
    elif field.is_repeated:
        if not isinstance(value, list):
            raise invalid(path, "is not an array")
        target = getattr(message, field.name)
        for position, item in enumerate(value):
            own = f"{path}[{position}]"
            if field.message_type is not None:
                fill(target.add(), item, own, depth + 1)
            else:
                target.append(fields.from_json(field, item, own))
    elif field.message_type is not None:
        target = getattr(message, field.name)
        target.SetInParent()
        fill(target, value, path, depth + 1)
    else:
        setattr(message, field.name, fields.from_json(field, value, path))


def field_of(message: Any, name: str) -> FieldDescriptor | None:
    """A field of a message's descriptor, by its JSON name or by its name in the proto."""
    return _names(message).get(name)


def is_map(field: FieldDescriptor) -> bool:
    """Whether a field is a map."""
    kind = field.message_type
    return kind is not None and field.is_repeated and bool(kind.GetOptions().map_entry)


def check_oneof(message: Message, field: FieldDescriptor, path: str) -> None:
    """Of fields that exclude each other, one is allowed.

    Raises:
        InvalidRequestError: another was set before.
    """
    oneof = field.containing_oneof
    if oneof is not None and (other := message.WhichOneof(oneof.name)) is not None:
        raise invalid(path, f"cannot be given together with {other}")


def check_single(value: Any, path: str) -> None:
    """No object of a value, which has a form of its own, names a member twice.

    Raises:
        InvalidRequestError: one does.
    """
    if isinstance(value, Doubled):
        raise invalid(join(path, value.name), "is given twice")
    if isinstance(value, dict):
        for name, item in value.items():
            check_single(item, join(path, name))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            check_single(item, f"{path}[{position}]")


def join(path: str, name: str) -> str:
    """The path of a member."""
    return f"{path}.{name}" if path and not path.endswith(".") else f"{path}{name}"


def _put_map(message: Message, field: FieldDescriptor, value: Any, path: str, depth: int) -> None:
    if not isinstance(value, dict):
        raise invalid(path, "is not an object")
    if isinstance(value, Doubled):
        raise invalid(f"{path}[{json.dumps(value.name)}]", "is given twice")
    kind = field.message_type
    assert kind is not None  # noqa: S101  (a map has one)
    keys, values = kind.fields_by_name["key"], kind.fields_by_name["value"]
    target = getattr(message, field.name)
    for text, item in value.items():
        own = f"{path}[{json.dumps(text)}]"
        key = fields.from_text(keys, text, own)
        if values.message_type is not None:
            fill(target[key], item, own, depth + 1)
        else:
            target[key] = fields.from_json(values, item, own)


@lru_cache(maxsize=256)  # there are some 50 messages
def _names(message: Any) -> dict[str, FieldDescriptor]:
    return {name: field for field in message.fields for name in (field.name, field.json_name)}


def _takes_null(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.full_name == "google.protobuf.Value"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    doubled, seen = Doubled(members), set()
    for name, _ in pairs:
        if name in seen:
            doubled.name = name
            break
        seen.add(name)
    return doubled


def _not_a_constant(text: str) -> NoReturn:
    raise ValueError(text)  # NaN and Infinity: Python's json takes them, RFC 8259 does not
