"""The states of an aggregate at its versions, and what differs between two of them."""

from __future__ import annotations

from typing import Any

from ..processes import Process
from ..processes.describing import describe_instance
from ..repository.repository import Repository
from ..store import Store
from .app import App


async def load_state(app: App, store: Store, stream: str, version: int | None) -> dict[str, Any]:
    """Return the fields of a stream's state in a store, at a version or at its end.

    The bookkeeping of a process is in fields of its own, such as `instance.timers`, with times in UTC.

    Raises:
        AggregateNotFound: the store has no such stream, or no such version of it.
        UsageError: the app has no class for it.
        StoreError, StoredDataError: it cannot be read.
        Exception: what a handler of the class raises.
    """
    found = await Repository(app.find_aggregate(stream), store).load(stream.partition("-")[2], version=version)
    fields = {name: getattr(found, name) for name in found.__struct_fields__}
    if not isinstance(found, Process):
        return fields
    del fields["instance"]
    return fields | {f"instance.{name}": value for name, value in describe_instance(found.instance).items()}


def find_changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the fields that differ between two states of one class, each with its two values."""
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}
