"""The contract of the registry: which processors there are, and which version of each readers use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored for a processor before it handles its first commit."""

    store: str  # the identity of the store whose commits it handles, its tenant included
    started: int = 0  # µs since the epoch, by the store's clock: older commits are not handled; 0 if all are
    start: str = ""  # the feed checkpoint at that moment
    handles: tuple[str, ...] = ()  # the tags of the events that its handlers take, sorted
    categories: tuple[str, ...] = ()  # of the streams that it handles, sorted; () if it handles all
    paused: bool = False


class Registry(ABC):
    """What is stored once for each processor and for each tag. Its calls keep the promises of `Checkpoints`."""

    @abstractmethod
    async def registration(self, processor: str) -> Registration | None:
        """Return what is stored for a processor, or None if it has never run or was forgotten."""

    @abstractmethod
    async def register(self, processor: str, new: Registration, *, instead_of: Registration | None) -> bool:
        """Store a registration in place of exactly this one; None: if there is none. Return False if there is another.

        It returns True, too, if `new` is stored already.
        """

    @abstractmethod
    async def processors(self) -> Sequence[str]:
        """Return the names of all registered processors, sorted."""

    @abstractmethod
    async def active(self, tag: str) -> int | None:
        """Return the version that readers use, or None if there is none yet."""

    @abstractmethod
    async def activate(self, tag: str, version: int, *, instead_of: int | None) -> bool:
        """Activate a version in place of `instead_of`. Return False if the active version is neither of the two."""
