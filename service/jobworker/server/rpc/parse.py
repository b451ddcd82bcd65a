"""Requests from their bytes, in slices: one call of protobuf's own parser holds the loop, and the interpreter's lock,
for half a second where 4 MiB are two million empty jobs.

A message's bytes can be cut between any two fields, and the pieces parsed one after another into one message: that is
the wire format's own rule for merging (https://protobuf.dev/programming-guides/encoding, "Last One Wins"). A long field
that is a message is cut in turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

    from jobworker.server.slices import Slices

# Up to 10 ms, were it nothing but empty jobs; usual requests are parsed at once.
AT_ONCE_BYTES = 32 << 10
_FIELDS_AT_ONCE = 1000  # looked at, a millisecond
# As upb has it (kUpb_DecodeOptions_MaxDepth), the parser behind protobuf.
_MAX_DEPTH = 100
_HAVE_LENGTHS = (FieldDescriptor.CPPTYPE_STRING, FieldDescriptor.CPPTYPE_MESSAGE)
_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5


async def parse(message: Message, data: bytes, slices: Slices) -> None:
    """Parses `data` into an empty message.

    Raises:
        DecodeError: it is none of its kind.
    """
    if len(data) <= AT_ONCE_BYTES:
        message.ParseFromString(data)
        return
    async for piece in slices.each(_Cut(data).pieces(message, 0, len(data), 0)):
        if piece is not None:
            target, part = piece
            target.MergeFromString(part)


class _Cut:
    """Cuts a message's bytes. Each piece must be parsed before the next is asked for."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def pieces(self, message: Message, at: int, end: int, depth: int) -> Iterator[tuple[Message, bytes] | None]:
        """Those of the bytes from `at` to `end`, which are `message`; None while the next one is still looked for."""
        if depth > _MAX_DEPTH:
            raise DecodeError("nested too deeply")
        begin, fields = at, 0
        while at < end:
            start = at
            payload, at = self._field(start, end)
            if at - payload > AT_ONCE_BYTES:  # only what has a length is so long
                yield message, self._data[begin:start]
                yield from self._long(message, start, at, depth)
                begin = at
            elif at - begin >= AT_ONCE_BYTES:
                yield message, self._data[begin:at]
                begin = at
            fields += 1
            if not fields % _FIELDS_AT_ONCE:
                yield None
        yield message, self._data[begin:end]

    def _long(self, message: Message, start: int, end: int, depth: int) -> Iterator[tuple[Message, bytes] | None]:
        """Those of one long field."""
        tag, at = self._varint(start, end)
        _, payload = self._varint(at, end)
        field: Any = message.DESCRIPTOR.fields_by_number.get(tag >> 3)
        if field is not None and field.type == FieldDescriptor.TYPE_MESSAGE and not _is_map(field):
            member = getattr(message, field.name)
            if field.is_repeated:
                member = member.add()
            else:
                member.SetInParent()
            yield from self.pieces(member, payload, end, depth + 1)
        elif field is not None and field.is_repeated and field.cpp_type not in _HAVE_LENGTHS:
            # Numbers one after another: many such fields are the same as one (".../encoding#packed").
            while payload < end:
                cut = min(payload + AT_ONCE_BYTES, end)
                while cut < end and self._data[cut - 1] > 0x7F:
                    cut += 1
                yield message, _put(tag) + _put(cut - payload) + self._data[payload:cut]
                payload = cut
        else:
            yield message, self._data[start:end]

    def _field(self, at: int, end: int) -> tuple[int, int]:
        """Where the content of the field at `at` begins, and where the field ends."""
        tag, at = self._varint(at, end)
        kind, payload = tag & 7, at
        if kind == _LEN:
            length, payload = self._varint(at, end)
            at = payload + length
        elif kind == _VARINT:
            _, at = self._varint(at, end)
        elif kind == _I64:
            at += 8
        elif kind == _I32:
            at += 4
        else:
            raise DecodeError("a group, which none of our messages has")
        if at > end:
            raise DecodeError("cut off")
        return payload, at

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """The value, and where the next begins."""
        data = self._data
        if at < end and data[at] < 0x80:
            return data[at], at + 1
        value = shift = 0
        while at < end and shift < 70:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
        raise DecodeError("not a number")


def _is_map(field: Any) -> bool:
    return bool(field.message_type.GetOptions().map_entry)


def _put(value: int) -> bytes:
    """A varint."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
