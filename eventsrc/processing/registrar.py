"""What is stored of a processor before it handles its first commit, and which version readers use."""

from __future__ import annotations

from msgspec import structs

from ..errors import NotActive, StoreChanged
from ..log import log
from ..stores.feed import Feed
from .checkpoints.registry import Registration, Registry
from .projections.projection import Projection

NOT_BEGUN = -1
"""`Registration.started` of a processor that has not run yet."""


class Registrar:
    """Registers one version of a processor, and checks that it belongs to its store."""

    def __init__(self, projection: Projection, registry: Registry, feed: Feed, *, from_now: bool) -> None:
        self.tag, self.version, self.name, self.from_now = projection.tag, projection.version, projection.name, from_now
        self._projection, self._registry, self._feed = projection, registry, feed
        self._handles, self._categories = projection.handles, tuple(sorted(set(projection.categories)))
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
        identity = await self._identity()
        while True:
            found = await self._registry.registration(self.name)
            if found is not None and found.store != identity:
                raise StoreChanged(self.name, "its checkpoints belong to another store or tenant than the one given")
            if found is not None and (found.started != NOT_BEGUN or not begin):
                break
            start, started = "", 0 if begin else NOT_BEGUN
            if begin and self.from_now:
                start, started = await self._feed.end(), await self._feed.clock()
            new = structs.replace(found or Registration(store=identity), started=started, start=start)
            if await self._registry.register(self.name, self._declare(new), instead_of=found):
                self.new_start = start
        if begin and self.from_now != (found.started > 0):
            log.warning(
                "%s: it began %s, so its start=%r is ignored; to begin elsewhere, forget it or give it another tag",
                *(self.name, "now" if found.started else "at the beginning", "now" if self.from_now else "beginning"),
            )
        if (new := self._declare(found)) != found:
            self._warn(found)
            await self._registry.register(self.name, new, instead_of=found)
        self._current = found
        return found

    async def _identity(self) -> str:
        """Return the identity of the store, and of the place of the positions if that is another store."""
        target = await self._projection.target_identity()
        return f"{await self._feed.identity()} to {target}" if target else await self._feed.identity()

    def _declare(self, registration: Registration) -> Registration:
        return structs.replace(registration, handles=self._handles, categories=self._categories)

    def _warn(self, found: Registration) -> None:
        """Log what this object handles, and the one that was registered did not."""
        text = "%s: %s were added without raising its version: events of the past are not handled"
        if added := [each for each in self._handles if each not in found.handles]:
            log.warning(text, self.name, f"handlers of {', '.join(added)}")
        if found.categories and not self._categories:
            log.warning(text, self.name, "all other categories")
        elif found.categories and (added := [each for each in self._categories if each not in found.categories]):
            log.warning(text, self.name, f"categories ({', '.join(added)})")

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
