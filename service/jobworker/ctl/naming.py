"""The ways to name a batch: its id, a beginning of that, `@last` and `@-2`, or its name. The service looks them up."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from jobworker.ctl.exits import CtlError, Exit

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from jobworker.client import Client
    from jobworker.v1.job_pb2 import Batch

_WHOLE = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.IGNORECASE)
_PREFIX = re.compile(r"[0-9a-f][0-9a-f-]{3,35}", re.IGNORECASE)  # shorter ones name half of the batches
_RECENT = re.compile(r"@(?:last|-([1-9][0-9]{0,3}))")
_NAMED_MOST = 5  # batches that an error lists


async def resolve(
    client: Client, texts: Iterable[str], *, user: Callable[[], str], only_one: bool = False
) -> list[str]:
    """The ids that are meant, each once. `user` gives whose last batches `@last` means. Of several batches with one
    name, the newest is meant; with `only_one`, that is an error.

    Raises:
        CtlError: none is meant, or it is not clear which.
        JobworkerError: the service could not be asked.
    """
    found = [await _resolve(client, text, user=user, only_one=only_one) for text in texts]
    return list(dict.fromkeys(found))


async def _resolve(client: Client, text: str, *, user: Callable[[], str], only_one: bool) -> str:
    if _WHOLE.fullmatch(text):
        return text
    if (recent := _RECENT.fullmatch(text)) is not None:
        return await _recent(client, int(recent[1] or 1), user=user())
    if text.startswith("@"):
        raise CtlError(f"{text}: @last is your newest batch, @-2 the one before it, and so on")
    if _PREFIX.fullmatch(text):
        batches = await _first(client.list_batches(id_prefix=text, page_size=_NAMED_MOST), _NAMED_MOST)
        if len(batches) > 1:
            raise CtlError(f"{text} is the beginning of several ids: {_listed(batches)}", Exit.NOT_FOUND)
        if batches:
            return batches[0].correlation_id
    return await _named(client, text, only_one=only_one)


async def _recent(client: Client, count: int, *, user: str) -> str:
    batches = await _first(client.list_batches(user=user, page_size=min(count, 1000)), count)
    if len(batches) < count:
        raise CtlError(f"{user} has {len(batches)} batches", Exit.NOT_FOUND)
    return batches[-1].correlation_id


async def _named(client: Client, name: str, *, only_one: bool) -> str:
    batches = await _first(client.list_batches(name=name, page_size=_NAMED_MOST), _NAMED_MOST if only_one else 1)
    if not batches:
        raise CtlError(f"there is no batch with the id, the beginning of an id, or the name {name}", Exit.NOT_FOUND)
    if len(batches) > 1:
        raise CtlError(f"{name} is the name of several batches, give an id: {_listed(batches)}", Exit.NOT_FOUND)
    return batches[0].correlation_id


async def _first(batches: AsyncGenerator[Batch, None], count: int) -> list[Batch]:
    found: list[Batch] = []
    async for batch in batches:
        found.append(batch)
        if len(found) == count:
            break
    await batches.aclose()
    return found


def _listed(batches: list[Batch]) -> str:
    shown = ", ".join(batch.correlation_id for batch in batches)
    return shown + (", ..." if len(batches) == _NAMED_MOST else "")
