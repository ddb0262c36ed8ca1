"""Conversion of commits and snapshots to items and back. docs/storage.md explains each attribute."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

import msgspec

from ...errors import CorruptPayload, InvalidStreamId, StoreRejected
from ...store import MAX_TIME, Commit, Snapshot
from ...stream_id import MAX_STREAM_BYTES, TENANT_DELIMITER, check_stream
from ..limits import ID_BYTES, MAX_COMMIT_BYTES, check_commit, check_version
from .layouts.layout import SortKey, commit_version
from .wire.client import Reply
from .wire.responses import (
    Binary,
    Cancelled,
    ConditionFailed,
    GetResponse,
    Number,
    QueryResponse,
    Reason,
    Text,
    TextMap,
    Texts,
)

T = TypeVar("T")

ID, TIME, EVENTS, TAGS, PAYLOAD = "i", "t", "n", "e", "p"
CORRELATION, LONG_CORRELATION, CAUSATION, COMMAND, DIGEST, METADATA = "c", "l", "a", "k", "d", "m"
SNAPSHOT_VERSION, SHAPE = "v", "s"
_IDENTITY_PARTITION, _IDENTITY_SORT = f"{TENANT_DELIMITER}eventsrc", "-1"  # no stream, and no version
NAMES = {ID, TIME, EVENTS, TAGS, PAYLOAD, CORRELATION, LONG_CORRELATION, CAUSATION, COMMAND, DIGEST, METADATA}
NAMES |= {SNAPSHOT_VERSION, SHAPE}
MAX_INDEXED_BYTES = 2048  # of a text that is the key of an index, which is not empty either


class Stored(msgspec.Struct, kw_only=True, gc=False):
    """An item as the service returns it, with those of the library's attributes that it has."""

    partition: Text
    sort: Number
    id: Binary = msgspec.field(name=ID, default=Binary())
    time: Number = msgspec.field(name=TIME, default=Number())
    events: Number = msgspec.field(name=EVENTS, default=Number())
    tags: Texts = msgspec.field(name=TAGS, default=Texts())
    payload: Binary = msgspec.field(name=PAYLOAD, default=Binary())
    correlation: Text | None = msgspec.field(name=CORRELATION, default=None)
    long_correlation: Text | None = msgspec.field(name=LONG_CORRELATION, default=None)
    causation: Texts | None = msgspec.field(name=CAUSATION, default=None)
    command: Text | None = msgspec.field(name=COMMAND, default=None)
    digest: Binary | None = msgspec.field(name=DIGEST, default=None)
    metadata: TextMap | None = msgspec.field(name=METADATA, default=None)
    snapshot_version: Number = msgspec.field(name=SNAPSHOT_VERSION, default=Number())
    shape: Text = msgspec.field(name=SHAPE, default=Text())


class Items:
    """Converts commits and snapshots to items and back, for one table and one tenant."""

    def __init__(self, partition_key: str, sort_key: str, tenant: str | None) -> None:
        if partition_key == sort_key or not partition_key or not sort_key or {partition_key, sort_key} & NAMES:
            taken = ", ".join(sorted(NAMES))
            raise ValueError(f"key names {partition_key!r}, {sort_key!r} must differ, and not be any of {taken}")
        if tenant is not None:
            check_stream(tenant)
        self.partition_key, self.sort_key = partition_key, sort_key
        keys: Any = [
            ("partition", Text, msgspec.field(name=partition_key)),
            ("sort", Number, msgspec.field(name=sort_key)),
        ]
        stored: Any = msgspec.defstruct("StoredInTable", keys, bases=(Stored,), kw_only=True, gc=False)
        self.stored: type[Stored] = stored
        self.get_response: type[GetResponse[Stored]] = GetResponse[stored]
        self.query_response: type[QueryResponse[Stored]] = QueryResponse[stored]
        self._condition_failed: type[ConditionFailed[Stored]] = ConditionFailed[stored]
        self._cancelled: type[Cancelled[Stored]] = Cancelled[stored]
        self.tenant = tenant
        self.trace_keys = {CORRELATION: "S", TIME: "N"}
        self.identity_attribute = ID
        self.identity_key = {partition_key: {"S": _IDENTITY_PARTITION}, sort_key: {"N": _IDENTITY_SORT}}
        self.prefix = f"{tenant}{TENANT_DELIMITER}" if tenant is not None else ""

    def partition(self, stream: str) -> dict[str, str]:
        """Return the value of the partition key. Raises InvalidStreamId."""
        check_stream(stream)
        value = self.prefix + stream
        if self.prefix and len(value.encode()) > MAX_STREAM_BYTES:
            raise InvalidStreamId(stream, f"has more than {MAX_STREAM_BYTES:,} bytes together with its tenant")
        return {"S": value}

    def key(self, stream: str, sort: SortKey) -> dict[str, Any]:
        return {self.partition_key: self.partition(stream), self.sort_key: {"N": str(sort)}}

    def from_identity(self, drawn: str) -> dict[str, Any]:
        """Return the item with the identity of the table."""
        return self.identity_key | {self.identity_attribute: {"S": drawn}}

    def from_commit(self, commit: Commit) -> dict[str, Any]:
        """Return the item of a commit. Raises CommitTooLarge, InvalidStreamId or ValueError."""
        item = self.key(commit.stream, commit.version)
        item[ID] = {"B": commit.id}
        item[TIME] = {"N": str(commit.time)}
        item[EVENTS] = {"N": str(commit.events)}
        item[TAGS] = {"L": [{"S": tag} for tag in commit.tags]}
        item[PAYLOAD] = {"B": commit.payload}
        if commit.correlation_id is not None:
            fits = 0 < len(commit.correlation_id.encode()) <= MAX_INDEXED_BYTES
            item[CORRELATION if fits else LONG_CORRELATION] = {"S": commit.correlation_id}
        if commit.causation_ids:
            item[CAUSATION] = {"L": [{"S": cause} for cause in commit.causation_ids]}
        if commit.command_id is not None:
            item[COMMAND] = {"S": commit.command_id}
        if commit.command_digest is not None:
            item[DIGEST] = {"B": commit.command_digest}
        if commit.metadata:
            item[METADATA] = {"M": {key: {"S": value} for key, value in commit.metadata.items()}}
        names = len(self.partition_key.encode()) + len(self.sort_key.encode()) + len(self.prefix.encode())
        check_commit(commit, MAX_COMMIT_BYTES - names)
        return item

    def read_stored(self, reply: Reply | None, commit: Commit) -> Stored | None:
        """Return the stored item that the put of a commit met; None if the reply does not have it."""
        try:
            item = reply.read(self._condition_failed).Item if reply is not None else None
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return None
        return item if item is not None and self.is_at(item, commit.stream, commit.version) else None

    def read_reasons(self, reply: Reply | None, places: Sequence[tuple[str, int]]) -> list[Reason[Stored]]:
        """Return why each of the actions on these streams and versions was cancelled, with the item that it has met.

        An empty list if the reply does not say it.
        """
        try:
            reasons = reply.read(self._cancelled).CancellationReasons if reply is not None else []
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return []
        if len(reasons) < len(places):
            return []
        found = []
        for reason, (stream, version) in zip(reasons, places, strict=False):
            item = reason.Item if reason.Item is not None and self.is_at(reason.Item, stream, version) else None
            found.append(Reason(reason.Code, item))
        return found

    def are_of_stream(self, items: Iterable[Stored], stream: str) -> bool:
        """Whether all of these items are in the partition of the stream."""
        return {item.partition.S for item in items} <= {self.partition(stream)["S"]}

    def is_at(self, item: Stored, stream: str, sort: SortKey) -> bool:
        """Whether the item has this key."""
        return self.are_of_stream([item], stream) and self.read_sort_key(item, stream) == sort

    def read_sort_key(self, item: Stored, stream: str) -> SortKey:
        """Return the sort key of an item. Raises CorruptPayload if it is not a number."""
        text = item.sort.N or ""
        try:
            return int(text)
        except ValueError:
            pass
        try:
            key = Decimal(text)  # exact in any decimal context
        except InvalidOperation:
            key = Decimal("NaN")
        if key.is_finite():
            return key
        raise CorruptPayload(stream, 0, "an item has a sort key that is not a number")

    def read_version(self, item: Stored, stream: str) -> int | None:
        """Return the version of a commit's item; None if the sort key cannot be a commit's. Raises CorruptPayload."""
        return commit_version(self.read_sort_key(item, stream))

    def to_commit(self, item: Stored, stream: str, version: int | None = None) -> Commit:
        """Return the commit of an item. `version` is what `read_version` has returned, if it was called.

        Raises CorruptPayload if this library did not write the item.
        """
        if version is None:
            version = self.read_version(item, stream)
        try:  # inline, because a load spends most of its time here
            id, time, events, payload, tags = item.id.B, item.time.N, item.events.N, item.payload.B, item.tags.L
            if version is None or id is None or time is None or events is None or payload is None or tags is None:
                raise ValueError
            moment, correlation = int(time), item.correlation or item.long_correlation
            if len(id) != ID_BYTES or not 0 <= moment <= MAX_TIME:
                raise ValueError
            return Commit(
                stream=stream,
                version=version,
                id=id,
                time=moment,
                events=int(events),
                tags=(_require(tags[0].S),) if len(tags) == 1 else _read_texts(tags),
                payload=payload,
                correlation_id=None if correlation is None else _require(correlation.S),
                causation_ids=() if item.causation is None else _read_texts(_require(item.causation.L)),
                command_id=None if item.command is None else _require(item.command.S),
                command_digest=None if item.digest is None else _require(item.digest.B),
                metadata={} if item.metadata is None else _read_map(item.metadata),
            )
        except ValueError:
            pass
        raise CorruptPayload(stream, version or 0, "the item is not a commit of this library")

    def to_commit_of_tenant(self, item: Stored) -> Commit | None:
        """Return the commit of an item; None if it is not a commit of this tenant.

        Raises CorruptPayload if this library did not write the item.
        """
        key = self.read_commit_key(item)
        return self.to_commit(item, key[0]) if key is not None else None

    def read_commit_key(self, item: Stored) -> tuple[str, int] | None:
        """Return the stream and the version from the keys alone; None if they are not those of a commit of this tenant.

        Raises CorruptPayload if the keys are not those of this library.
        """
        if (key := item.partition.S) is None:
            raise CorruptPayload("", 0, "an item has a partition key that is not a stream")
        stream = key.removeprefix(self.prefix)
        if not key.startswith(self.prefix) or TENANT_DELIMITER in stream:
            return None
        version = commit_version(self.read_sort_key(item, stream))
        return None if version is None else (stream, version)

    def read_key(self, item: Stored) -> dict[str, Any]:
        return {self.partition_key: {"S": item.partition.S}, self.sort_key: {"N": item.sort.N}}

    def from_snapshot(self, snapshot: Snapshot, sort: SortKey) -> dict[str, Any]:
        """Return the item of a snapshot. Raises StoreRejected if it is too large for an item, and InvalidStreamId."""
        item = self.key(snapshot.stream, sort)
        if (size := snapshot.size + len(snapshot.stream.encode()) + len(self.prefix.encode())) > MAX_COMMIT_BYTES:
            raise StoreRejected("ItemTooLarge", f"the snapshot has {size:,} bytes; an item holds {MAX_COMMIT_BYTES:,}")
        item[SNAPSHOT_VERSION] = {"N": str(snapshot.version)}
        item[SHAPE] = {"S": snapshot.shape}
        item[PAYLOAD] = {"B": snapshot.payload}
        return item

    def to_snapshot(self, item: Stored, stream: str) -> Snapshot | None:
        """Return the snapshot of an item; None if it is not one of this library, because the commits suffice."""
        try:
            version, shape, payload = (
                int(_require(item.snapshot_version.N)),
                _require(item.shape.S),
                _require(item.payload.B),
            )
            check_version(version)
        except ValueError:
            return None
        return Snapshot(stream=stream, version=version, shape=shape, payload=payload)


def _read_texts(texts: list[Text]) -> tuple[str, ...]:
    return tuple([_require(each.S) for each in texts])


def _read_map(texts: TextMap) -> dict[str, str]:
    return {key: _require(value.S) for key, value in _require(texts.M).items()}


def _require(value: T | None) -> T:
    if value is None:
        raise ValueError
    return value
