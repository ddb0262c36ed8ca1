"""The token from which an inbox resumes, stored with the checkpoints of processors."""

from __future__ import annotations

from ..errors import Fenced
from ..processing.checkpoints.checkpoints import Checkpoints, Slot
from ..publishing.token import FeedToken
from ..retrying import on_takeover


class ResumeToken:
    """One token, which several workers may write. It is a slot that has no owner: each write raises its epoch."""

    def __init__(self, checkpoints: Checkpoints, name: str) -> None:
        self._checkpoints, self._name = checkpoints, name

    async def load(self) -> str | None:
        """Return the stored token; None if there is none yet. Raises StoreError."""
        slot = await self._slot()
        return slot.checkpoint if slot.epoch else None

    async def save_first(self, token: str) -> str:
        """Store the token at which all workers start. Return the one that is stored: another worker may be first."""
        try:
            await self._checkpoints.claim(self._name, Slot(number=0, of=1, epoch=1, checkpoint=token))
        except Fenced:
            return (await self._slot()).checkpoint
        return token

    async def save(self, token: str) -> None:
        """Store a token, unless one that is further is stored. Raises StoreError, and Fenced if others always win."""

        async def once() -> None:
            slot = await self._slot()
            if _is_after(token, slot.checkpoint):
                await self._write(slot, token)

        await on_takeover()(once)

    async def replace(self, token: str) -> None:
        """Store a token, whatever is stored. Raises as `save`."""

        async def once() -> None:
            await self._write(await self._slot(), token)

        await on_takeover()(once)

    async def _slot(self) -> Slot:
        slots = await self._checkpoints.slots(self._name)
        return slots[0] if slots else Slot(number=0, of=1)

    async def _write(self, slot: Slot, token: str) -> None:
        await self._checkpoints.claim(self._name, Slot(number=0, of=1, epoch=slot.epoch + 1, checkpoint=token))


def _is_after(token: str, stored: str) -> bool:
    if not stored or not token:
        return bool(token)
    new, old = FeedToken.parse(token), FeedToken.parse(stored)
    return new.store != old.store or new.place > old.place
