"""The stores, the feed of all their commits, and the gate that lets each commit through once and in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..stream_id import check_stream
from .feed import Batch, Feed, Head
from .gate import Gate
from .limits import check_commit
from .memory import MemoryStore
from .opening import ManagedStore
from .ordered import OrderedStore
from .settle import settle
from .url import open_store

if TYPE_CHECKING:
    from .dynamodb import DynamoDBStore, Export
    from .sqlite import SQLiteStore

__all__ = [
    "Batch",
    "DynamoDBStore",
    "Export",
    "Feed",
    "Gate",
    "Head",
    "ManagedStore",
    "MemoryStore",
    "OrderedStore",
    "SQLiteStore",
    "check_commit",
    "check_stream",
    "open_store",
    "settle",
]


def __getattr__(name: str) -> Any:
    """Import a store when it is first asked for, so that a program that uses one does not pay for the others."""
    if name == "SQLiteStore":
        from .sqlite import SQLiteStore

        return SQLiteStore
    if name in ("DynamoDBStore", "Export"):
        from . import dynamodb

        return getattr(dynamodb, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
