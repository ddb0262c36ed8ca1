"""Lookups of causes by the index of a table, or by a scan if the table has none."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from math import ceil
from typing import Any

from ...errors import StoredDataError, StoreError, StoreRejected
from ...log import log
from ...store import Commit, EventId
from ...trace_context import check_text, trace_id_of
from ...usage import Usage
from ..causes import Cause, Searched, SearchingLookup, identity_of, parse_identity
from ..feed import Batch
from .description import TRACES
from .feed.found import find_commits
from .items import CORRELATION, MAX_INDEXED_BYTES, TIME, Items, Stored
from .partitions import TablePartitions
from .table import Table
from .wire.responses import QueryResponse

_NO_INDEX = ("ValidationException", "ResourceNotFoundException")  # of DynamoDB, and of other servers
_BYTES_OF_UNIT = 8192  # read with eventual consistency


class TableLookup:
    """Finds commits by the index that `create_table(traces=True)` makes. Implements `causes.Lookup`.

    `scan` is that of the store, for a table without the index.
    """

    def __init__(self, table: Table, items: Items, scan: Callable[..., AsyncGenerator[Batch]]) -> None:
        self._table, self._items, self._scan = table, items, scan
        self._search = SearchingLookup(self._read_all)

    async def correlated(self, correlation_id: str) -> AsyncGenerator[Commit]:
        check_text("correlation_id", correlation_id)
        found = await self._read_index(correlation_id) or self._search.correlated(correlation_id)
        async with aclosing(found):
            async for commit in found:
                yield commit

    async def effects_of(self, cause: EventId | str, *, correlation_id: str | None = None) -> AsyncGenerator[Commit]:
        wanted = Cause.of(cause)
        trace_id = await self._find_trace_id(wanted) if correlation_id is None else correlation_id
        if trace_id is None:
            log.warning("%s is not in table %s; give its correlation_id, or all is read", wanted.text, self._table.name)
        found = await self._read_index(trace_id) if trace_id is not None else None
        found = found or self._search.effects_of(cause)
        async with aclosing(found):
            async for commit in found:
                if wanted.is_of(commit):
                    yield commit

    async def _read_all(self) -> Searched:
        try:
            units = ceil((await self._table.describe()).TableSizeBytes / _BYTES_OF_UNIT)
            cost = f"{max(1, units):,} read units or more, as DynamoDB updates the size of a table every six hours"
        except StoreError:
            cost = "a read unit for each 8 KB"
        cost = f"the whole table, which costs {cost}; create_table(traces=True) makes an index"
        return Searched(self._scan(report_damaged=True), cost, ordered=False)

    async def _find_trace_id(self, cause: Cause) -> str | None:
        """Return the id of the trace that the commit of a cause is in; None if it is not in this table."""
        commit = await self._get(identity_of(cause.text))
        return trace_id_of(commit) if commit is not None else None

    async def _get(self, identity: str) -> Commit | None:
        """Return the commit with this identity. Raises CorruptPayload."""
        if (key := parse_identity(identity)) is None:
            return None
        used = Usage(calls=1)
        with self._table.guard(used):
            item = await TablePartitions(self._table, self._items, used).get(*key)
        return self._items.to_commit(item, key[0]) if item is not None else None

    async def _read_index(self, correlation_id: str) -> AsyncGenerator[Commit] | None:
        """Return the commits of a trace, of which the first page has been read; None if there is no index for it."""
        if not 0 < len(correlation_id.encode()) <= MAX_INDEXED_BYTES:
            return None
        try:
            page = await self._query(correlation_id)
        except StoreRejected as error:
            if error.code in _NO_INDEX:  # if the table is missing, the scan raises it again
                return None
            raise
        return self._follow(correlation_id, page)

    async def _follow(self, correlation_id: str, page: QueryResponse[Stored]) -> AsyncGenerator[Commit]:
        error: StoredDataError | None = None
        root: Commit | None = None
        try:
            root = await self._get(correlation_id)
        except StoredDataError as corrupt:
            error = corrupt.with_traceback(None)
        if root is not None and not root.correlation_id:
            yield root
        while True:
            commits, damaged, _ = find_commits(page.Items, self._items.to_commit_of_tenant)
            for commit in commits:
                yield commit
            if damaged and error is None:
                error = damaged[0].error
            if page.LastEvaluatedKey is None:
                break
            page = await self._query(correlation_id, page.LastEvaluatedKey)
        if error is not None:
            raise error

    async def _query(self, correlation_id: str, after: Stored | None = None) -> QueryResponse[Stored]:
        request: dict[str, Any] = {
            "TableName": self._table.name,
            "IndexName": TRACES,
            "KeyConditionExpression": "#c = :c",
            "ExpressionAttributeNames": {"#c": CORRELATION},
            "ExpressionAttributeValues": {":c": {"S": correlation_id}},
            "ReturnConsumedCapacity": "TOTAL",
        }
        if after is not None:
            key = {CORRELATION: {"S": correlation_id}, TIME: {"N": after.time.N}}
            request["ExclusiveStartKey"] = self._items.read_key(after) | key
        used = Usage(calls=1)
        with self._table.guard(used):
            return await self._table.send("Query", request, self._items.query_response, used)
