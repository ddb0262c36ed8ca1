"""Commits and snapshots as items. docs/storage.md explains each attribute."""

from __future__ import annotations

from typing import Any

from ..errors import CorruptPayload, InvalidStreamId, StoreRejected
from ..limits import MAX_COMMIT_BYTES, check_commit
from ..store import Commit, Snapshot
from ..stream import MAX_STREAM_BYTES, TENANT_DELIMITER, check_stream
from .client import Item

ID, TIME, EVENTS, TAGS, PAYLOAD = "i", "t", "n", "e", "p"
CORRELATION, CAUSATION, COMMAND, DIGEST, METADATA = "c", "a", "k", "d", "m"
SNAPSHOT_VERSION, SHAPE = "v", "s"
_OURS = {ID, TIME, EVENTS, TAGS, PAYLOAD, CORRELATION, CAUSATION, COMMAND, DIGEST, METADATA, SNAPSHOT_VERSION, SHAPE}


class Items:
    """Translates for one table and one tenant."""

    def __init__(self, partition_key: str, sort_key: str, tenant: str | None) -> None:
        if partition_key == sort_key or not partition_key or not sort_key or {partition_key, sort_key} & _OURS:
            taken = ", ".join(sorted(_OURS))
            raise ValueError(f"key names {partition_key!r}, {sort_key!r}: two different ones, none of {taken}")
        if tenant is not None:
            check_stream(tenant)
        self.partition_key, self.sort_key = partition_key, sort_key
        self._prefix = f"{tenant}{TENANT_DELIMITER}" if tenant is not None else ""

    def partition(self, stream: str) -> dict[str, str]:
        """The partition key's value. Raises InvalidStreamId."""
        check_stream(stream)
        value = self._prefix + stream
        if self._prefix and len(value.encode()) > MAX_STREAM_BYTES:
            raise InvalidStreamId(stream, f"with its tenant it has more than {MAX_STREAM_BYTES:,} bytes")
        return {"S": value}

    def key(self, stream: str, sort: int) -> dict[str, Any]:
        return {self.partition_key: self.partition(stream), self.sort_key: {"N": str(sort)}}

    def sort_of(self, item: Item) -> int:
        return int(item[self.sort_key]["N"])

    def from_commit(self, commit: Commit) -> dict[str, Any]:
        """Raises CommitTooLarge, InvalidStreamId, ValueError."""
        item = self.key(commit.stream, commit.version)
        item[ID] = {"B": commit.id}
        item[TIME] = {"N": str(commit.time)}
        item[EVENTS] = {"N": str(commit.events)}
        item[TAGS] = {"L": [{"S": tag} for tag in commit.tags]}
        item[PAYLOAD] = {"B": commit.payload}
        if commit.correlation_id is not None:
            item[CORRELATION] = {"S": commit.correlation_id}
        if commit.causation_ids:
            item[CAUSATION] = {"L": [{"S": cause} for cause in commit.causation_ids]}
        if commit.command_id is not None:
            item[COMMAND] = {"S": commit.command_id}
        if commit.command_digest is not None:
            item[DIGEST] = {"B": commit.command_digest}
        if commit.metadata:
            item[METADATA] = {"M": {key: {"S": value} for key, value in commit.metadata.items()}}
        names = len(self.partition_key.encode()) + len(self.sort_key.encode()) + len(self._prefix.encode())
        check_commit(commit, MAX_COMMIT_BYTES - names)
        return item

    def to_commit(self, item: Item, stream: str) -> Commit:
        """Raises CorruptPayload if the item is not one of ours."""
        version = self.sort_of(item)
        try:
            return Commit(
                stream=stream,
                version=version,
                id=bytes(item[ID]["B"]),
                time=int(item[TIME]["N"]),
                events=int(item[EVENTS]["N"]),
                tags=tuple([tag["S"] for tag in item[TAGS]["L"]]),
                payload=bytes(item[PAYLOAD]["B"]),
                correlation_id=item[CORRELATION]["S"] if CORRELATION in item else None,
                causation_ids=tuple([cause["S"] for cause in item[CAUSATION]["L"]]) if CAUSATION in item else (),
                command_id=item[COMMAND]["S"] if COMMAND in item else None,
                command_digest=bytes(item[DIGEST]["B"]) if DIGEST in item else None,
                metadata={key: value["S"] for key, value in item[METADATA]["M"].items()} if METADATA in item else {},
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise CorruptPayload(stream, version, "the item is not a commit of this library") from None

    def from_snapshot(self, snapshot: Snapshot, sort: int) -> dict[str, Any]:
        """Raises StoreRejected if an item cannot hold it, and InvalidStreamId."""
        item = self.key(snapshot.stream, sort)
        if (size := snapshot.size + len(snapshot.stream.encode()) + len(self._prefix.encode())) > MAX_COMMIT_BYTES:
            raise StoreRejected("ItemTooLarge", f"a snapshot of {size:,} bytes; an item holds {MAX_COMMIT_BYTES:,}")
        item[SNAPSHOT_VERSION] = {"N": str(snapshot.version)}
        item[SHAPE] = {"S": snapshot.shape}
        item[PAYLOAD] = {"B": snapshot.payload}
        return item

    def to_snapshot(self, item: Item, stream: str) -> Snapshot | None:
        """None if the item is no snapshot of this library: whatever it is, the log is the truth."""
        try:
            return Snapshot(
                stream=stream,
                version=int(item[SNAPSHOT_VERSION]["N"]),
                shape=item[SHAPE]["S"],
                payload=bytes(item[PAYLOAD]["B"]),
            )
        except (KeyError, TypeError, ValueError):
            return None
