"""The stores, the feed of all their commits, the gate that makes it exact, and what authors of stores use.

Each name is imported when it is first asked for: a program that uses one store does not pay for the others. It is
imported from its own file: two threads that ask for names whose packages import one another would wait for each other.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .settle import settle  # now, as importing the module of this name later would hide the function

if TYPE_CHECKING:
    from ..stream_id import check_stream
    from .causes import Lookup
    from .dynamodb.export.export import Export
    from .dynamodb.store import DynamoDBStore
    from .feed import Batch, Damaged, Feed, Head
    from .gate import Gate
    from .lifecycle import ManagedStore
    from .limits import check_commit
    from .memory import MemoryStore
    from .ordered import OrderedStore
    from .sqlite.inline import InlineDatabase
    from .sqlite.store import SQLiteStore
    from .transacting import Guard, Transacting, check_transaction
    from .url import open_store

__all__ = [
    "Batch",
    "Damaged",
    "DynamoDBStore",
    "Export",
    "Feed",
    "Gate",
    "Guard",
    "Head",
    "InlineDatabase",
    "Lookup",
    "ManagedStore",
    "MemoryStore",
    "OrderedStore",
    "SQLiteStore",
    "Transacting",
    "check_commit",
    "check_stream",
    "check_transaction",
    "open_store",
    "settle",
]

_HOMES = {
    "Batch": ".feed",
    "Damaged": ".feed",
    "DynamoDBStore": ".dynamodb.store",
    "Export": ".dynamodb.export.export",
    "Feed": ".feed",
    "Gate": ".gate",
    "Guard": ".transacting",
    "Head": ".feed",
    "InlineDatabase": ".sqlite.inline",
    "Lookup": ".causes",
    "ManagedStore": ".lifecycle",
    "MemoryStore": ".memory",
    "OrderedStore": ".ordered",
    "SQLiteStore": ".sqlite.store",
    "Transacting": ".transacting",
    "check_commit": ".limits",
    "check_stream": "..stream_id",
    "check_transaction": ".transacting",
    "open_store": ".url",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
