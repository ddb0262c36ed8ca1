"""Event sourcing for Python on Amazon DynamoDB, SQLite and memory: async, exact, small."""

from typing import TYPE_CHECKING, Any

from .aggregate import Aggregate
from .cache import CachePolicy, CacheUse
from .errors import (
    AggregateNotFound,
    CommitOutcomeUnknown,
    CommitTooLarge,
    ConflictError,
    CorruptPayload,
    EventsrcError,
    FeedTrimmed,
    Fenced,
    IdempotencyError,
    InvalidEvent,
    InvalidStreamId,
    NotActive,
    PayloadTooLarge,
    SchemaMismatch,
    StoreClosed,
    StoredDataError,
    StoreError,
    StoreRejected,
    StoreUnavailable,
    StreamCorrupt,
    StreamParked,
    Throttled,
    UnhandledEvent,
    UnknownEventType,
    WiringError,
)
from .event import Event, tag_of
from .feed import Batch, Feed, Head
from .memory import MemoryStore
from .repository import Recorded, Repository
from .snapshots import SnapshotPolicy
from .store import Commit, Loaded, Receipt, Snapshot, Store
from .stream import EventId
from .tracing import Trace, current_trace, trace
from .url import open_store
from .usage import Usage

if TYPE_CHECKING:
    from .dynamodb import DynamoDBStore
    from .sqlite import SQLiteStore

__version__ = "0.1.0"

__all__ = [
    "Aggregate",
    "AggregateNotFound",
    "Batch",
    "CachePolicy",
    "CacheUse",
    "Commit",
    "CommitOutcomeUnknown",
    "CommitTooLarge",
    "ConflictError",
    "CorruptPayload",
    "DynamoDBStore",
    "Event",
    "EventId",
    "EventsrcError",
    "Feed",
    "FeedTrimmed",
    "Fenced",
    "Head",
    "IdempotencyError",
    "InvalidEvent",
    "InvalidStreamId",
    "Loaded",
    "MemoryStore",
    "NotActive",
    "PayloadTooLarge",
    "Receipt",
    "Recorded",
    "Repository",
    "SQLiteStore",
    "SchemaMismatch",
    "Snapshot",
    "SnapshotPolicy",
    "Store",
    "StoreClosed",
    "StoreError",
    "StoreRejected",
    "StoreUnavailable",
    "StoredDataError",
    "StreamCorrupt",
    "StreamParked",
    "Throttled",
    "Trace",
    "UnhandledEvent",
    "UnknownEventType",
    "Usage",
    "WiringError",
    "current_trace",
    "open_store",
    "tag_of",
    "trace",
]


def __getattr__(name: str) -> Any:
    """Import a store when it is first asked for: whoever uses one does not pay for the other."""
    if name == "SQLiteStore":
        from .sqlite import SQLiteStore

        return SQLiteStore
    if name == "DynamoDBStore":
        from .dynamodb import DynamoDBStore

        return DynamoDBStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
