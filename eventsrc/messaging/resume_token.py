"""The token from which an inbox resumes, stored with the checkpoints of processors."""

from __future__ import annotations

from contextlib import suppress

import msgspec

from ..errors import Fenced
from ..processing.checkpoints.checkpoints import Checkpoints, Slot
from ..publishing.token import FeedToken
from ..retrying import on_takeover


class Mark(msgspec.Struct, frozen=True):
    """A commit of the inbox that was stored after all other events before a token. The token needs it to be there."""

    stream: str
    version: int
    commit_id: bytes


class Resumption(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where an inbox resumes, and where it began: there it reads again if the mark is not in its store any more."""

    token: str = ""
    first: str = ""
    mark: Mark | None = None  # None if nothing was stored between `first` and the token


class ResumeToken:
    """One token, which several workers may write. It is a slot that has no owner: each write raises its epoch."""

    def __init__(self, checkpoints: Checkpoints, name: str) -> None:
        self._checkpoints, self._name = checkpoints, name

    async def load(self) -> Resumption | None:
        """Return what is stored; None if there is nothing yet. Raises StoreError."""
        slot = await self._slot()
        return _decode(slot.checkpoint) if slot.epoch else None

    async def save_first(self, token: str) -> None:
        """Store the token at which all workers start, unless another worker was first. Raises StoreError."""
        with suppress(Fenced):
            await self._write(Slot(number=0, of=1), Resumption(token, token))

    async def save(self, token: str, mark: Mark | None = None) -> None:
        """Store a token, unless one that is further is stored. Raises StoreError, and Fenced if others always win."""

        async def once() -> None:
            slot = await self._slot()
            stored = _decode(slot.checkpoint)
            if _is_after(token, stored.token):
                await self._write(slot, Resumption(token, stored.first, mark))

        await on_takeover()(once)

    async def replace(self, token: str) -> None:
        """Store a token, whatever is stored: the inbox begins there. Raises as `save`."""

        async def once() -> None:
            await self._write(await self._slot(), Resumption(token, token))

        await on_takeover()(once)

    async def begin_again(self, found: Resumption) -> None:
        """Go back to the first token, unless something else than `found` is stored now. Raises StoreError."""
        slot = await self._slot()
        if _decode(slot.checkpoint) == found:
            with suppress(Fenced):  # another worker has written
                await self._write(slot, Resumption(found.first, found.first))

    async def _slot(self) -> Slot:
        slots = await self._checkpoints.slots(self._name)
        return slots[0] if slots else Slot(number=0, of=1)

    async def _write(self, slot: Slot, content: Resumption) -> None:
        text = msgspec.json.encode(content).decode()
        await self._checkpoints.claim(self._name, Slot(number=0, of=1, epoch=slot.epoch + 1, checkpoint=text))


def _decode(text: str) -> Resumption:
    """Return what is in a slot. A token alone was written before there were marks."""
    return msgspec.json.decode(text, type=Resumption) if text.startswith("{") else Resumption(text, text)


def _is_after(token: str, stored: str) -> bool:
    if not stored or not token:
        return bool(token)
    new, old = FeedToken.parse(token), FeedToken.parse(stored)
    return new.store != old.store or new.place > old.place
