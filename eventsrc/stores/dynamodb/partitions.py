"""The requests to one stream's partition, from which loads, reads and layouts are composed."""

from __future__ import annotations

from typing import Any

from ...concurrency import Turn
from ...errors import CorruptPayload, StoreError
from ...store import OVERHEAD, Commit, Snapshot
from ...usage import Usage
from .items import ID, SNAPSHOT_VERSION, Items, Stored
from .layouts.layout import Page, SortKey
from .table import Table, mixed_up
from .wire.outcomes import ConditionNotMet
from .wire.responses import Response

_PART = 128  # items that are read at once; a page may have 10,000


class TablePartitions:
    """The partitions of a table, one for each stream. Implements `layouts.layout.Partitions`.

    - Each method sends one request, which the caller guards. `used` counts what it consumes.
    - Reads are strongly consistent.

    Raises:
        StoreError: a request failed.
        CorruptPayload: this library did not write the item.
    """

    def __init__(self, table: Table, items: Items, used: Usage) -> None:
        self._table, self._items, self._used = table, items, used

    async def query(
        self,
        stream: str,
        low: SortKey,
        high: SortKey,
        *,
        after: SortKey | None = None,
        newest: bool = False,
        backward: bool = False,
        limit: int | None = None,
        stop_at_damaged: bool = False,
    ) -> Page:
        """Query as `Partitions.query`. With `stop_at_damaged`, the page ends before an item that is not a commit."""
        items, used = self._items, self._used
        request: dict[str, Any] = {
            "TableName": self._table.name,
            "KeyConditionExpression": "#pk = :pk AND #sk BETWEEN :low AND :high",
            "ExpressionAttributeNames": {"#pk": items.partition_key, "#sk": items.sort_key},
            "ExpressionAttributeValues": {
                ":pk": items.partition(stream),
                ":low": {"N": str(low)},
                ":high": {"N": str(high)},
            },
            "ScanIndexForward": not backward,
            "ConsistentRead": True,
            "ReturnConsumedCapacity": "TOTAL",
        }
        if limit is not None:
            request["Limit"] = limit
        if after is not None:
            request["ExclusiveStartKey"] = items.key(stream, after)
        response = await self._table.send("Query", request, items.query_response, used)
        if not items.are_of_stream(response.Items, stream):
            raise mixed_up(stream)
        snapshot: Snapshot | None = None
        commits: list[Commit] = []
        damaged: CorruptPayload | None = None
        turn = Turn()
        for number, item in enumerate(response.Items, 1):
            if not number % _PART:
                await turn.end_if_long()
            version = items.read_version(item, stream)
            if version is None:
                found = items.to_snapshot(item, stream) if newest else None
                snapshot = found if snapshot is None or (found and found.version > snapshot.version) else snapshot
            elif snapshot is None or version >= snapshot.version:  # commits before the snapshot are not decoded
                try:
                    commits.append(items.to_commit(item, stream, version))
                except CorruptPayload as error:
                    if not stop_at_damaged:
                        raise
                    damaged = error.with_traceback(None)
                    break
        used.bytes_read += OVERHEAD * len(commits) + sum([len(commit.payload) for commit in commits])
        used.bytes_read += snapshot.size if snapshot else 0
        last = response.LastEvaluatedKey
        return Page(snapshot, commits, None if last is None else items.read_sort_key(last, stream), damaged)

    async def get(self, stream: str, key: SortKey) -> Stored | None:
        request = {
            "TableName": self._table.name,
            "Key": self._items.key(stream, key),
            "ConsistentRead": True,
            "ReturnConsumedCapacity": "TOTAL",
        }
        item = (await self._table.send("GetItem", request, self._items.get_response, self._used)).Item
        if item is not None and not self._items.is_at(item, stream, key):
            raise mixed_up(stream)
        return item

    async def get_snapshot(self, stream: str, key: SortKey) -> Snapshot | None:
        item = await self.get(stream, key)
        snapshot = self._items.to_snapshot(item, stream) if item else None
        self._used.bytes_read += snapshot.size if snapshot else 0
        return snapshot

    async def put_snapshot(self, snapshot: Snapshot, key: SortKey) -> bool:
        request = {
            "TableName": self._table.name,
            "Item": self._items.from_snapshot(snapshot, key),
            # An item with a commit id is never replaced, whatever the key is.
            "ConditionExpression": "attribute_not_exists(#i) AND (attribute_not_exists(#v) OR #v < :v)",
            "ExpressionAttributeNames": {"#i": ID, "#v": SNAPSHOT_VERSION},
            "ExpressionAttributeValues": {":v": {"N": str(snapshot.version)}},
            "ReturnConsumedCapacity": "TOTAL",
        }
        try:
            await self._table.send("PutItem", request, Response, self._used)
        except ConditionNotMet:
            return False
        return True


async def find_stored(partitions: TablePartitions, commit: Commit, unknown: StoreError) -> Stored:
    """Return the item that has the version of a commit whose put was refused. Raises `unknown` if it is not found."""
    try:
        stored = await partitions.get(commit.stream, commit.version)
    except StoreError as error:  # not a definite failure: the stored item may be this commit
        raise unknown from error
    if stored is None:  # the stored item was deleted, or an earlier try is still being carried out
        raise unknown
    return stored
