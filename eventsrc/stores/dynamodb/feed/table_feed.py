"""The feed of a table: a scan of its items, then its stream from before the scan.

Commits that are stored during the scan may be delivered twice, by the scan and by the stream. The stream itself repeats
and reorders. A `Gate` passes each commit once and in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

import msgspec

from ....errors import StoreClosed, StoreRejected
from ....store import Commit
from ....usage import Usage
from ...feed import Batch
from ..description import DescribeResponse
from ..items import Items
from ..table import Table
from ..wire.client import Client, ServiceError
from ..wire.limits import Limits
from ..wire.outcomes import DeadlinePassed, is_worth_repeating, to_store_rejected
from ..wire.sending import count_tries, send
from .change_records import read_changes
from .checkpoint import END_MARGIN, Checkpoint, check_age, parse_checkpoint
from .found import Found, find_commits
from .lineage import cursor_before_scan, cursor_from_now
from .shard_reader import list_shards
from .stream_reader import StreamReader

T = TypeVar("T")


class Scan(Protocol):
    """Iterates over all commits of a table after `after`, a checkpoint of the scan."""

    def __call__(self, *, after: str, report_damaged: bool) -> AsyncGenerator[Batch]: ...


class TableFeed:
    """The feed of a table. Make a new one each time that the table is opened."""

    def __init__(self, table: Table, items: Items, scan: Scan) -> None:
        self._table, self._items, self._scan = table, items, scan
        self._limits = Limits(table.connection.deadline, table.connection.max_connections)  # of the stream's client
        self._open_lock = asyncio.Lock()
        self._client: Client | None = None
        self._readers: set[StreamReader] = set()

    async def batches(self, after: str, *, follow: bool, report_damaged: bool) -> AsyncGenerator[Batch]:
        """Iterate over the commits, as `DynamoDBStore.feed`."""
        checkpoint = parse_checkpoint(after) if after else None
        stream = await self._find_stream()
        if checkpoint is None:
            listing = await list_shards(self._send_to_stream, stream)
            checkpoint = Checkpoint(stream, int(listing.requested_at), [cursor_before_scan(listing.shards)], scan="")
        else:
            checkpoint = checkpoint.for_stream(stream)
        check_age(checkpoint.since)
        if checkpoint.scan is not None:
            async with aclosing(self._scan(after=checkpoint.scan, report_damaged=report_damaged)) as batches:
                async for batch in batches:
                    check_age(checkpoint.since)
                    scan = None if batch.caught_up else batch.checkpoint
                    checkpoint = msgspec.structs.replace(checkpoint, scan=scan)
                    yield Batch(batch.commits, checkpoint.text(), caught_up=False, damaged=batch.damaged, is_scan=True)
        self._readers.add(reader := StreamReader(self._send_to_stream, checkpoint, self._find))
        try:
            async with aclosing(reader.batches(follow=follow, report_damaged=report_damaged)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            self._readers.discard(reader)

    async def end(self) -> str:
        """Return the checkpoint of the end, as `DynamoDBStore.end`."""
        begin = await self._table.clock(self._items.identity_key) // 1_000_000 - END_MARGIN
        listing = await list_shards(self._send_to_stream, stream := await self._find_stream())
        cursors = [cursor_from_now(listing.shards)]
        return Checkpoint(stream, int(listing.requested_at), cursors, begin=begin).text()

    def close(self) -> None:
        """Make all running feeds raise StoreClosed."""
        for reader in self._readers:
            reader.fail(StoreClosed("DynamoDBStore was closed, which ends its feeds"))

    async def _find_stream(self) -> str:
        """Return the ARN of the table's stream.

        Raises StoreRejected if the table has no stream of new images, and StoreError.
        """
        client, request = self._table.connection.client, {"TableName": self._table.name}
        try:
            table = (await self._send(client, "DescribeTable", request, DescribeResponse)).Table
        except ServiceError as error:
            raise to_store_rejected(error) from None
        if not table.StreamSpecification.StreamEnabled:
            raise StoreRejected(
                "StreamSpecification",
                "the table has no stream; `await store.create_table(stream=True)` turns on one of NEW_IMAGE",
            )
        table.StreamSpecification.check_view()
        return table.LatestStreamArn

    async def _send_to_stream(self, operation: str, request: dict[str, Any], kind: type[T]) -> T:
        """Send a request to the stream's endpoint. Raises ServiceError if it is refused, and StoreError."""
        async with self._open_lock:
            if self._client is None:
                with self._table.guard(Usage(calls=1)):
                    self._client = await self._table.connection.open_streams()
        return await self._send(self._client, operation, request, kind)

    async def _send(self, client: Client | None, operation: str, request: dict[str, Any], kind: type[T]) -> T:
        used = Usage(calls=1)
        with self._table.guard(used):
            assert client is not None
            return await send_read(client, operation, request, kind, self._limits, used)

    def _find(self, records: list[dict[str, Any]]) -> Found:
        return find_commits(records, self._to_commit)

    def _to_commit(self, record: dict[str, Any]) -> Commit | None:
        [change] = read_changes([record], self._items)
        return change.commit


async def send_read(
    client: Client,
    operation: str,
    request: dict[str, Any],
    kind: type[T],
    limits: Limits,
    used: Usage,
) -> T:
    """Send a request that may be sent twice. Raises ServiceError if it is refused, and StoreError."""
    try:
        return await send(count_tries(client, operation, request, kind, used), limits)
    except DeadlinePassed as passed:
        last = passed.last
        # The outcome of earlier tries does not matter for a read, so a refusal of the last one is definite.
        refusal = last if isinstance(last, ServiceError) and not is_worth_repeating(last) else None
        raise refusal or passed.to_store_error() from None
