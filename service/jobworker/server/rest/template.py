"""Path templates of google.api.http, as google/api/http.proto has their grammar:

Template = "/" Segments [ ":" LITERAL ] ;   Segments = Segment { "/" Segment } ;
Segment = "*" | "**" | LITERAL | "{" FieldPath [ "=" Segments ] "}" ;
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

_VARIABLE = re.compile(r"\{([a-z_][a-z0-9_.]*)(?:=([^{}]+))?\}")
# The verb is behind the last slash and outside of braces.
_VERB = re.compile(r":([^/{}:]+)$")
_SEGMENT = {"*": "[^/]+", "**": ".+"}


@dataclass(frozen=True, slots=True)
class Template:
    """One template; `variables` are the field paths that it binds, in order."""

    text: str
    verb: str
    variables: tuple[str, ...]
    _pattern: re.Pattern[str]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Reads a template.

        Raises:
            ValueError: it is none.
        """
        found = _VERB.search(text)
        verb = found.group(1) if found else ""
        path = text[: found.start()] if found else text
        if not path.startswith("/"):
            raise ValueError(f"{text}: a path template begins with /")
        pattern, variables, position = "", [], 0
        for variable in _VARIABLE.finditer(path):
            pattern += _segments(path[position : variable.start()], text)
            pattern += f"({_segments(variable.group(2) or '*', text)})"
            variables.append(variable.group(1))
            position = variable.end()
        pattern += _segments(path[position:], text)
        if verb:
            pattern += f":{re.escape(quote(verb))}"
        return cls(text=text, verb=verb, variables=tuple(variables), _pattern=re.compile(pattern))

    def match(self, raw_path: str) -> dict[str, str] | None:
        """The variables' values, from a path as it was sent, still percent-encoded; None: another path."""
        # Decoded only now: an encoded slash is part of its segment (http.proto, "Path template syntax").
        found = self._pattern.fullmatch(raw_path)
        if found is None:
            return None
        return {name: unquote(value) for name, value in zip(self.variables, found.groups(), strict=True)}


def _segments(path: str, template: str) -> str:
    if "{" in path or "}" in path:
        raise ValueError(f"{template}: is not a path template")
    return "/".join(_SEGMENT.get(segment) or re.escape(quote(segment)) for segment in path.split("/"))
