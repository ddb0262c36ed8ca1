"""The states of an aggregate at its versions, and what differs between two of them."""

from __future__ import annotations

from typing import Any

from ..errors import AggregateNotFound
from ..repository.repository import Repository
from .app import App


async def load_state(app: App, stream: str, version: int | None) -> dict[str, Any]:
    """Return the fields of a stream's state at a version, or at its end.

    Raises:
        AggregateNotFound: no store has the stream, or none has the version.
        UsageError: the app has no class for it.
        StoreError, StoredDataError: it cannot be read.
    """
    aggregate, id = app.find_aggregate(stream), stream.partition("-")[2]
    missing: AggregateNotFound | None = None
    for store in app.stores.values():
        try:
            found = await Repository(aggregate, store).load(id, version=version)
        except AggregateNotFound as error:
            is_there = bool((await store.load(stream)).commits)
            missing = error if is_there or missing is None else missing
        else:
            return {name: getattr(found, name) for name in found.__struct_fields__}
    assert missing is not None
    raise missing


def find_changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the fields that differ between two states of one class, each with its two values."""
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}
