"""What is stored of a processor before it handles its first commit, and which version readers use."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from ..errors import NotActive, StoreChanged
from ..log import log
from ..stores.feed import Feed
from .checkpoints.registry import Registration, Registry

NOT_BEGUN = -1
"""`Registration.started` of a processor that has not run yet."""


class Registrar:
    """Registers one version of a processor, and checks that it belongs to its store."""

    def __init__(
        self, tag: str, version: int, handles: Sequence[str], registry: Registry, feed: Feed, *, from_now: bool
    ) -> None:
        self.tag, self.version, self.name, self.from_now = tag, version, f"{tag}@{version}", from_now
        self._handles, self._registry, self._feed = tuple(handles), registry, feed
        self._current: Registration | None = None
        self.new_start = ""  # where slots begin that have no checkpoint, if this object has stored the registration

    async def current(self) -> Registration:
        """Return the registration, from memory if it is known."""
        return self._current or await self.register()

    async def register(self, *, begin: bool = False) -> Registration:
        """Read what is stored for this processor, or store it, and check that it belongs to this store.

        Only with `begin` it is stored where the processor begins: tools look at processors that have not run yet.

        Raises:
            StoreChanged: it belongs to another store or tenant.
        """
        identity = await self._feed.identity()
        while True:
            found = await self._registry.registration(self.name)
            if found is not None and (found.started != NOT_BEGUN or not begin):
                break
            start, started = "", 0 if begin else NOT_BEGUN
            if begin and self.from_now:
                start, started = await self._feed.end(), await self._feed.clock()
            blank = Registration(store=identity, handles=self._handles)
            new = structs.replace(found or blank, started=started, start=start)
            if found is not None and found.store != identity:
                break
            if await self._registry.register(self.name, new, instead_of=found):
                self.new_start = start
        if found.store != identity:
            raise StoreChanged(self.name, "its checkpoints belong to another store or tenant than the one given")
        if begin and self.from_now != (found.started > 0):
            log.warning(
                "%s: it began %s, so its start=%r is ignored; to begin elsewhere, forget it or give it another tag",
                *(self.name, "now" if found.started else "at the beginning", "now" if self.from_now else "beginning"),
            )
        if found.handles != self._handles:
            if added := set(self._handles) - set(found.handles):
                log.warning(
                    "%s: handlers of %s were added without raising its version: events of the past are not handled",
                    *(self.name, ", ".join(sorted(added))),
                )
            await self._registry.register(self.name, structs.replace(found, handles=self._handles), instead_of=found)
        self._current = found
        return found

    def forget(self) -> None:
        """Note that the registration was deleted."""
        self._current = None

    async def is_paused(self) -> bool:
        """Read whether the processor is paused."""
        found = await self._registry.registration(self.name)
        return found is not None and found.paused

    async def set_paused(self, paused: bool) -> None:
        """Store whether the processor is paused."""
        while True:
            found = await self.register()
            new = structs.replace(found, paused=paused)
            if await self._registry.register(self.name, new, instead_of=found):
                return

    async def active(self) -> int | None:
        """Return the version that readers use."""
        return await self._registry.active(self.tag)

    async def check_active(self) -> None:
        """Check that readers use this version. If no version is active yet, activate this one.

        Raises:
            NotActive: readers use another version.
        """
        active = await self.active()
        if active is None and not await self._registry.activate(self.tag, self.version, instead_of=None):
            active = await self.active()
        if active not in (None, self.version):
            raise NotActive(self.tag, self.version, active)
