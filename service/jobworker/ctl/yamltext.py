"""JSON values as YAML 1.2 in block style. Strings that are not plain words are quoted as JSON has it, which YAML
includes (YAML 1.2.2, section 1.2), so that no reader of YAML 1.1 takes `no` or `1e3` for anything but a text."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# A letter first, and nothing that begins a comment, a mapping or an alias.
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.@/-]*", re.ASCII)
# What a reader of YAML 1.1 or 1.2 would not take for a text (YAML 1.1 types: bool, null, float).
_NOT_TEXT = re.compile(r"y|n|yes|no|on|off|true|false|null|\.?(inf|nan)", re.IGNORECASE)


def to_yaml(value: object) -> str:
    """The lines of a document, without a line feed at the end. `value`: of dict, list, str, int, float, bool, None."""
    return "\n".join(_lines(value))


def _lines(value: object) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, member in value.items():
            yield from _member(f"{_scalar(str(key))}:", member)
    elif isinstance(value, list) and value:
        for item in value:
            first, *rest = _lines(item)
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
    else:
        yield _scalar(value)


def _member(key: str, member: object) -> Iterator[str]:
    if isinstance(member, dict | list) and member:
        yield key
        indent = "" if isinstance(member, list) else "  "
        yield from (f"{indent}{line}" for line in _lines(member))
    else:
        yield f"{key} {_scalar(member)}"


def _scalar(value: object) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and not _NOT_TEXT.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)
