"""A call of a store that is under way: the store stays open until it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .usage import Usage

if TYPE_CHECKING:
    from .store import Store


class Call:
    """Counts as under way while its block lasts, and adds up what it used at the end."""

    __slots__ = ("_store", "_used")

    def __init__(self, store: Store, used: Usage | None) -> None:
        self._store, self._used = store, used

    def __enter__(self) -> None:
        self._store._calls += 1

    def __exit__(self, *error: object) -> None:
        store = self._store
        store._calls -= 1
        store.usage.add(self._used or Usage(calls=1))
        if not store._calls and store._idle is not None:
            store._idle.set()
