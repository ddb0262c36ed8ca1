"""The states of an aggregate at its versions, and what differs between two of them."""

from __future__ import annotations

from typing import Any

from ..repository.repository import Repository
from ..store import Store
from .app import App


async def load_state(app: App, store: Store, stream: str, version: int | None) -> dict[str, Any]:
    """Return the fields of a stream's state in a store, at a version or at its end.

    Raises:
        AggregateNotFound: the store has no such stream, or no such version of it.
        UsageError: the app has no class for it.
        StoreError, StoredDataError: it cannot be read.
        Exception: what a handler of the class raises.
    """
    found = await Repository(app.find_aggregate(stream), store).load(stream.partition("-")[2], version=version)
    return {name: getattr(found, name) for name in found.__struct_fields__}


def find_changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the fields that differ between two states of one class, each with its two values."""
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}
