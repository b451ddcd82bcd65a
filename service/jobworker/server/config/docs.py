"""The table of keys, as docs/config.md has it (`jobworker config docs`; a test compares the two)."""

from __future__ import annotations

from collections.abc import Iterator

from jobworker.server.config.keys import KEYS, SECTIONS, Key, choices


def markdown() -> str:
    """A table a section."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield from _table([key for key in KEYS.values() if "." not in key.path])
    for name, words in SECTIONS.items():
        yield f"### [{name}]"
        yield words
        yield ""
        yield from _table([key for key in KEYS.values() if key.path.startswith(f"{name}.")])


def _table(keys: list[Key]) -> Iterator[str]:
    yield "| key | default | a change takes | what it is |"
    yield "|---|---|---|---|"
    for key in keys:
        name = key.path.rpartition(".")[2]
        words = key.description
        if options := choices(key.path):
            words += f" One of {', '.join(f'`{option}`' for option in options)}."
        default = key.default_words if " " in key.default_words else f"`{key.default_words}`"
        yield f"| `{name}` | {default} | {'effect at once' if key.live else 'a restart'} | {words} |"
    yield ""
