"""Event sourcing for Python on Amazon DynamoDB, SQLite and memory: async, exact, small."""

from typing import TYPE_CHECKING, Any

from .aggregates.aggregate import Aggregate
from .aggregates.custom_types import register_type
from .aggregates.event import Event, tag_of
from .errors import (
    AggregateNotFound,
    AlreadyReserved,
    CommandRefused,
    CommitOutcomeUnknown,
    CommitTooLarge,
    ConflictError,
    CorruptPayload,
    DeclarationError,
    DumpDamaged,
    EventsrcError,
    FeedTrimmed,
    Fenced,
    IdempotencyError,
    InvalidEvent,
    InvalidStreamId,
    MessageRefused,
    MessageTooLarge,
    NotActive,
    NotAnEventsApi,
    PayloadTooLarge,
    SchemaMismatch,
    SourceError,
    SourceGap,
    SourceOutOfOrder,
    SourceRejected,
    SourceTokenGone,
    SourceUnavailable,
    StoreChanged,
    StoreClosed,
    StoredDataError,
    StoreError,
    StoreRejected,
    StoreUnavailable,
    StreamCorrupt,
    StreamParked,
    StreamsParked,
    SwitchPending,
    Throttled,
    TraceNotFound,
    TransactionOutcomeUnknown,
    TransactionsRefused,
    TransactionTooLarge,
    UnhandledEvent,
    UnknownEventType,
    UpcasterFailed,
    WrongSource,
    WrongStore,
)
from .repository.cache import CachePolicy, CacheUse
from .repository.execution import Executed
from .repository.executor import Executor
from .repository.repository import Repository
from .repository.snapshots import SnapshotPolicy
from .repository.time_travel import Recorded
from .store import Commit, EventId, EventIndex, Loaded, Receipt, Snapshot, Store
from .trace_context import TraceContext, current_trace, trace
from .usage import Usage

if TYPE_CHECKING:
    from .stores import Batch, DynamoDBStore, Feed, Head, MemoryStore, SQLiteStore, open_store

__version__ = "0.1.0"

__all__ = [
    "Aggregate",
    "AggregateNotFound",
    "AlreadyReserved",
    "Batch",
    "CachePolicy",
    "CacheUse",
    "CommandRefused",
    "Commit",
    "CommitOutcomeUnknown",
    "CommitTooLarge",
    "ConflictError",
    "CorruptPayload",
    "DeclarationError",
    "DumpDamaged",
    "DynamoDBStore",
    "Event",
    "EventId",
    "EventIndex",
    "EventsrcError",
    "Executed",
    "Executor",
    "Feed",
    "FeedTrimmed",
    "Fenced",
    "Head",
    "IdempotencyError",
    "InvalidEvent",
    "InvalidStreamId",
    "Loaded",
    "MemoryStore",
    "MessageRefused",
    "MessageTooLarge",
    "NotActive",
    "NotAnEventsApi",
    "PayloadTooLarge",
    "Receipt",
    "Recorded",
    "Repository",
    "SQLiteStore",
    "SchemaMismatch",
    "Snapshot",
    "SnapshotPolicy",
    "SourceError",
    "SourceGap",
    "SourceOutOfOrder",
    "SourceRejected",
    "SourceTokenGone",
    "SourceUnavailable",
    "Store",
    "StoreChanged",
    "StoreClosed",
    "StoreError",
    "StoreRejected",
    "StoreUnavailable",
    "StoredDataError",
    "StreamCorrupt",
    "StreamParked",
    "StreamsParked",
    "SwitchPending",
    "Throttled",
    "TraceContext",
    "TraceNotFound",
    "TransactionOutcomeUnknown",
    "TransactionTooLarge",
    "TransactionsRefused",
    "UnhandledEvent",
    "UnknownEventType",
    "UpcasterFailed",
    "Usage",
    "WrongSource",
    "WrongStore",
    "current_trace",
    "open_store",
    "register_type",
    "tag_of",
    "trace",
]


_OF_STORES = {"Batch", "DynamoDBStore", "Feed", "Head", "MemoryStore", "SQLiteStore", "open_store"}


def __getattr__(name: str) -> Any:
    """Import a store when it is first asked for: a program that uses one does not pay for the others."""
    if name not in _OF_STORES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import stores

    return getattr(stores, name)


def __dir__() -> list[str]:
    return [*globals(), *_OF_STORES]
