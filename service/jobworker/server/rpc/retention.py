"""What retention would remove, as PlanRetention tells it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from jobworker.server.errors import InvalidRequestError, Violation
from jobworker.server.store.removals import Reason
from jobworker.v1 import admin_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jobworker.server.slices import Slices
    from jobworker.server.store.plan import Keep
    from jobworker.server.store.retention import Retention

_SECTION = "retention."
_USUAL, _MOST = 1000, 10_000
_REASONS = {
    Reason.AGE: admin_pb2.RETENTION_REASON_AGE,
    Reason.USER: admin_pb2.RETENTION_REASON_USER_STORED,
    Reason.TOTAL: admin_pb2.RETENTION_REASON_STORED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPlans:
    """Made when asked for. `keep` is what would be kept with some other values of keys; see LiveConfig.preview."""

    keep: Callable[[Mapping[str, Any]], Keep]
    retention: Retention
    slices: Slices

    async def __call__(self, values: Mapping[str, Any], *, max_removals: int) -> admin_pb2.RetentionPlan:
        """With these values of keys; 0 removals are as many as usual.

        Raises:
            InvalidRequestError: a key is none of retention, or its value is not valid.
        """
        if others := [key for key in values if not key.startswith(_SECTION)]:
            raise InvalidRequestError(*(Violation(key, "is not a key of retention") for key in others))
        plan = await self.retention.planned(
            self.keep(values), most=min(max_removals or _USUAL, _MOST), slices=self.slices
        )
        message = admin_pb2.RetentionPlan(more=plan.more, counting=plan.counting)
        for removal in plan.removals:
            message.removals.add(
                user=removal.user,
                correlation_id=removal.correlation_id,
                reason=_REASONS[removal.reason],
                bytes=removal.stored.bytes,
                files=removal.stored.files,
            ).age.FromTimedelta(timedelta(seconds=removal.age_seconds))
            message.bytes += removal.stored.bytes
            message.files += removal.stored.files
        return message
