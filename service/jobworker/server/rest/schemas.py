"""Messages as JSON schemas (2020-12, as OpenAPI 3.1 has them): what the service sends, and what it takes.

It takes more than it sends: numbers as strings, null for anything that is left out, enums by number; and no member
that it does not know. A message that goes both ways has two schemas, the second one named `...Input`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor

from jobworker.server.rest import comments, decode, fields

if TYPE_CHECKING:
    from collections.abc import Mapping

Schema = dict[str, Any]

_BITS = {
    FieldDescriptor.CPPTYPE_INT32: ("int32", -(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: ("int64", -(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: ("uint32", 0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: ("uint64", 0, (1 << 64) - 1),
}
_LONG = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
_FLOAT: Schema = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
_PLAIN: dict[int, Schema] = {
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_DOUBLE: _FLOAT,
    FieldDescriptor.CPPTYPE_FLOAT: _FLOAT,
}
_DIGITS = "^-?[0-9]{1,20}$"
_NULL = {"type": "null"}
_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {
        "type": "string",
        "pattern": "^-?[0-9]{1,12}(\\.[0-9]{1,9})?s$",
        "examples": ["3.5s"],
    },
    "google.protobuf.FieldMask": {"type": "string", "pattern": "^([A-Za-z0-9_.]+(,[A-Za-z0-9_.]+)*)?$"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.ListValue": {"type": "array"},
    "google.protobuf.Value": {},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "required": ["@type"],
    },
}


class Schemas:
    """Collects the schemas of messages and enums under `components`, as they are referred to."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        """Args:
        texts: comments by full name.
        """
        self._texts = texts
        self.components: dict[str, Schema] = {}
        self._both: set[str] = set()

    def output(self, message: Any) -> Schema:
        """A message as the service sends it."""
        return self._message(message, taken=False)

    def input(self, message: Any) -> Schema:
        """A message as the service takes it."""
        return self._message(message, taken=True)

    def parameter(self, field: Any) -> Schema:
        """A field as a parameter in a path or a query."""
        kind = field.cpp_type
        if field.message_type is not None:
            return self._well_known(field.message_type.full_name)
        if kind in _BITS:
            form, least, most = _BITS[kind]
            return {"type": "integer", "format": form, "minimum": least, "maximum": most}
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            return {"anyOf": [self._enum(field.enum_type), _bits(FieldDescriptor.CPPTYPE_INT32)]}
        return self._scalar(field, taken=False)

    def _message(self, message: Any, *, taken: bool) -> Schema:
        if fields.is_well_known(message.full_name):
            return self._well_known(message.full_name)
        name = f"{message.name}Input" if taken and not message.name.endswith("Request") else message.name
        if name not in self.components:
            self.components[name] = {}  # a message may have itself as a field
            self.components[name] = {
                "type": "object",
                **comments.of(self._texts, message.full_name),
                "properties": {
                    field.json_name: {
                        **self._field(field, taken=taken),
                        **comments.of(self._texts, field.full_name),
                    }
                    for field in message.fields
                },
                **({"additionalProperties": False} if taken else {}),
            }
        return {"$ref": f"#/components/schemas/{name}"}

    def _field(self, field: Any, *, taken: bool) -> Schema:
        if decode.is_map(field):
            values = self._one(field.message_type.fields_by_name["value"], taken=taken)
            schema: Schema = {"type": "object", "additionalProperties": values}
        elif field.is_repeated:
            schema = {"type": "array", "items": self._one(field, taken=taken)}
        else:
            schema = self._one(field, taken=taken)
            if not taken and field.message_type is not None and field.containing_oneof is None:
                return _or_null(schema)
        return _or_null(schema) if taken else schema

    def _one(self, field: Any, *, taken: bool) -> Schema:
        if field.message_type is not None:
            return self._message(field.message_type, taken=taken)
        return self._scalar(field, taken=taken)

    def _scalar(self, field: Any, *, taken: bool) -> Schema:
        kind = field.cpp_type
        if kind in _BITS:
            digits = {"type": "string", "format": _BITS[kind][0], "pattern": _DIGITS}
            if taken:
                return {"anyOf": [_bits(kind), digits]}
            return digits if kind in _LONG else _bits(kind)
        if kind in _PLAIN:
            return dict(_PLAIN[kind])
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            named = self._enum(field.enum_type)
            return {"anyOf": [named, _bits(FieldDescriptor.CPPTYPE_INT32)]} if taken else named
        if field.type == FieldDescriptor.TYPE_BYTES:
            pattern = {"pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"} if taken else {}
            return {"type": "string", "contentEncoding": "base64", **pattern}
        return {"type": "string"}

    def _enum(self, enum: Any) -> Schema:
        if enum.name not in self.components:
            lines = [self._texts.get(enum.full_name, "")]
            for value in enum.values:
                text = self._texts.get(f"{enum.full_name}.{value.name}")
                lines += [f"- {value.name}: {' '.join(text.split())}"] if text else []
            text = "\n".join(filter(None, lines))
            self.components[enum.name] = {
                "type": "string",
                **({"description": text} if text else {}),
                "enum": [value.name for value in enum.values],
            }
        return {"$ref": f"#/components/schemas/{enum.name}"}

    def _well_known(self, full_name: str) -> Schema:
        return dict(_WELL_KNOWN.get(full_name, {}))


def _bits(kind: int) -> Schema:
    form, least, most = _BITS[kind]
    return {"type": "integer", "format": form, "minimum": least, "maximum": most}


def _or_null(schema: Schema) -> Schema:
    if isinstance(schema.get("type"), str) and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], _NULL]}
    return {"anyOf": [schema, _NULL]} if schema else {}
