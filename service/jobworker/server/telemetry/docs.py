"""The table of metrics, as docs/metrics.md has it (`jobworker metrics docs`; a test compares the two)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobworker.server.telemetry.names import ALL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobworker.server.telemetry.names import Spec


def markdown() -> str:
    """A row a metric."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield "| metric | type | unit | labels | meaning |"
    yield "|---|---|---|---|---|"
    for spec in ALL:
        labels = "; ".join(f"`{name}`: {values}" for name, values in spec.labels)
        kind = f"{spec.kind}, exemplars" if spec.exemplars else spec.kind
        yield f"| `{spec.name}` | {kind} | {spec.unit} | {labels} | {_meaning(spec)} |"


def _meaning(spec: Spec) -> str:
    if not spec.buckets:
        return spec.help
    return f"{spec.help} Buckets: {', '.join(f'{bound:g}' for bound in spec.buckets)}."
