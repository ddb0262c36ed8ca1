"""The stamps of writes: a write whose stamp is older than the stored one changes nothing."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from ....stores.dynamodb.table import Refusal, Table
from ....stores.dynamodb.wire.attributes import number_of
from ....stores.dynamodb.wire.responses import Item

IS_NEWEST = "(attribute_not_exists(#stamp) OR #stamp < :stamp)"


class Stamps:
    """Draws stamps, which are times in ns, each above the one before and above those that were noted."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._stamp = 0

    def note(self, item: Item) -> None:
        """Draw only stamps above that of an item, which a process may have written whose clock is ahead."""
        if "stamp" in item:
            self._stamp = max(self._stamp, number_of(item, "stamp"))

    def next(self) -> int:
        """Draw a stamp."""
        self._stamp = max(self._stamp + 1, time.time_ns())
        return self._stamp

    async def write_newest(self, key: Item, write: Callable[[int], Awaitable[Refusal | None]]) -> bool:
        """Write an item with a stamp that is above the stored one. Return False if something else refuses it."""
        while True:
            stamp = self.next()
            if (refusal := await write(stamp)) is None:
                return True
            item = refusal.item or await self._table.get(key) or {}
            stored = number_of(item, "stamp") if "stamp" in item else 0
            if stored < stamp:
                return False
            if stored == stamp:  # an earlier try, whose response was lost
                return True
            self._stamp = stored  # by another process, whose clock is ahead
