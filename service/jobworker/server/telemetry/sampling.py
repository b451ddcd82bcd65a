"""Which traces are kept. Follows from the trace id alone, so that every server of a batch, and every service that uses
the same rule, decides the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from jobworker.server.telemetry import tracecontext

if TYPE_CHECKING:
    from jobworker.server.ids import CorrelationId
    from jobworker.server.telemetry.tracecontext import Remote

SAMPLER = "OTEL_TRACES_SAMPLER"
ARGUMENT = "OTEL_TRACES_SAMPLER_ARG"

# The random part of a trace id is its last seven bytes (W3C Trace Context level 2, random trace id flag). The SDK's own
# sampler by ratio looks at eight, of which two bits of a UUID are fixed: it would keep none below one half, and all
# from three quarters on.
_RANDOM = (1 << 56) - 1
_RATIOS = {"always_on": 1.0, "always_off": 0.0, "traceidratio": None}
_PARENT_BASED = "parentbased_"


class Sampler:
    """`ratio` of all traces, and, where `parent_based`, what a caller has decided for its own."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Takes what the environment says, until `configure` gives a ratio."""
        self.problem = ""  # what of the environment could not be used
        name = environment.get(SAMPLER, "").strip().lower() or "parentbased_always_on"
        kind = name.removeprefix(_PARENT_BASED)
        if kind not in _RATIOS:
            self.problem = f"{SAMPLER}={name} is not known; every trace is kept"
            name, kind = "parentbased_always_on", "always_on"
        self._said_parent_based = name.startswith(_PARENT_BASED)
        ratio = _RATIOS[kind]
        self._said_ratio = self._argument(environment.get(ARGUMENT, "")) if ratio is None else ratio
        self.configure(None)

    def _argument(self, text: str) -> float:
        try:
            ratio = float(text or 1)
        except ValueError:
            ratio = -1
        if 0 <= ratio <= 1:
            return ratio
        self.problem = f"{ARGUMENT}={text} is not a number from 0 to 1; every trace is kept"
        return 1.0

    def configure(self, ratio: float | None) -> None:
        """From now on; None is what the environment said."""
        self._parent_based = self._said_parent_based if ratio is None else True
        self._least = round((1 - (self._said_ratio if ratio is None else ratio)) * (_RANDOM + 1))

    def keeps(self, trace_id: int) -> bool:
        """Whether a trace that begins here is kept."""
        return trace_id & _RANDOM >= self._least

    def keeps_batch(self, correlation_id: CorrelationId) -> bool:
        """Whether a batch's is."""
        return self.keeps(tracecontext.trace_id(correlation_id))

    def follows(self, remote: Remote) -> bool:
        """Whether spans are added to a caller's trace."""
        return remote.sampled if self._parent_based else self.keeps(remote.trace_id)
