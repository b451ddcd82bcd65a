"""What a page of docs/ shows, to be run as it is shown."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, heading: str, language: str) -> list[str]:
    """The code blocks of a section, in order."""
    sections = re.split(r"^## ", (DOCS / page).read_text(), flags=re.MULTILINE)
    (section,) = [text for text in sections if text.startswith(f"{heading}\n")]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
