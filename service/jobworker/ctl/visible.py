"""Text of others as a terminal may show it: what would steer the terminal, or make text look like another, is written
out. Nothing here knows whose text it is.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

# The general categories of Unicode: controls (C0, DEL, C1), format characters (which turn the direction of writing, or
# hide text), halves of surrogate pairs (no output takes them), the separators of lines and of paragraphs.
_STEERING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Format characters that scripts and emoji are written with: they join and separate letters, and do nothing else.
_JOINERS = frozenset({"\N{ZERO WIDTH NON-JOINER}", "\N{ZERO WIDTH JOINER}"})
_MAYBE = re.compile(r"[^ -~]")  # all that may have to be written out
_MAYBE_IN_LINES = re.compile(r"[^ -~\n\t]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def visible(text: str) -> str:
    """The text on one line: control characters as `\\n`, `\\x1b`, `\\u202e`; everything else as it is."""
    return _MAYBE.sub(_shown, text)


def visible_json(text: str, *, pairs: bool = True) -> str:
    r"""A JSON text of the same value, whose strings have control characters as `\u001b`. Its own line feeds stay.
    `pairs`: characters beyond U+FFFF as JSON has them, two escapes; else as one `\U000e0001`, as YAML has them."""
    return "".join(c if c == "\n" or not _steers(c) else _json_escape(c) if pairs else _escape(c) for c in text)


class VisibleBytes:
    """What a program wrote, as a terminal may show it, piece by piece: line feeds and tabs stay, other control
    characters and bytes that are not UTF-8 are written out. A character that two pieces share is shown with the second.
    """

    def __init__(self, encoding: str) -> None:
        """`encoding`: the terminal's; what it lacks is written out."""
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def feed(self, data: bytes, *, last: bool = False) -> bytes:
        """The next piece; a character that it only begins comes with the one after it, or now where it is the last."""
        text = _MAYBE_IN_LINES.sub(_shown, self._decoder.decode(data, final=last))
        return text.encode(self._encoding, "backslashreplace")


def _shown(found: re.Match[str]) -> str:
    character = found[0]
    if not _steers(character):
        return character
    return _SHORT.get(character) or _escape(character)


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _steers(character: str) -> bool:
    return unicodedata.category(character) in _STEERING and character not in _JOINERS


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
