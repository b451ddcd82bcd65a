"""Connections of which nobody knows yet whose they are: so many at a time, in all and of one address. Decides who has
to go; ends nobody, and knows no sockets.

Where there is one too many, the one that goes is of the address that has most, and the oldest of those that have said
nothing there, or of those that have, whichever are more. An honest client says something at once, is known a moment
later, and stays: among the silent it is one of few that speak, and among those that speak the others are older.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Generic, TypeVar

T = TypeVar("T")

_MAPPED = "::ffff:"
_SITE_BITS = 64  # whoever has an address of IPv6 has all that begin with these bits (RFC 6177)


@dataclass(slots=True)
class _Site(Generic[T]):
    """Those of one address, the oldest first."""

    silent: dict[T, None] = field(default_factory=dict)
    speaking: dict[T, None] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.silent) + len(self.speaking)


class Strangers(Generic[T]):
    """No more than `most`, and half of them of one address, once `surplus` has been asked."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._most_of_one = max(1, most // 2)
        self._sites: dict[str, _Site[T]] = {}
        self._site_of: dict[T, str] = {}

    def __len__(self) -> int:
        return len(self._site_of)

    def add(self, stranger: T, site: str) -> None:
        """One more, which has said nothing."""
        self._site_of[stranger] = site
        self._sites.setdefault(site, _Site()).silent[stranger] = None

    def spoke(self, stranger: T) -> None:
        """It has said something."""
        if (name := self._site_of.get(stranger)) is not None:
            site = self._sites[name]
            if stranger in site.silent:
                del site.silent[stranger]
                site.speaking[stranger] = None

    def remove(self, stranger: T) -> None:
        """It is known now, or gone; again does nothing."""
        if (name := self._site_of.pop(stranger, None)) is not None:
            site = self._sites[name]
            site.silent.pop(stranger, None)
            site.speaking.pop(stranger, None)
            if not site:
                del self._sites[name]

    def surplus(self, site: str) -> T | None:
        """Who has to go now that one came from `site`; None: there is room."""
        found = self._sites.get(site)
        if found is not None and len(found) > self._most_of_one:
            return _worst(found)
        return self.worst() if len(self._site_of) > self._most else None

    def worst(self) -> T | None:
        """Who goes first; None: there is nobody."""
        most = max(self._sites.values(), key=len, default=None)
        return None if most is None else _worst(most)


def site_of(address: str) -> str:
    """To whom an address belongs: itself, and of IPv6 a network."""
    if address.startswith(_MAPPED) and "." in address:
        return address[len(_MAPPED) :]
    if ":" not in address:
        return address
    return str(IPv6Address(int(IPv6Address(address.partition("%")[0])) >> _SITE_BITS << _SITE_BITS))


def _worst(site: _Site[T]) -> T:
    return next(iter(site.silent if len(site.silent) > len(site.speaking) else site.speaking))
