"""All commits of a table: a scan of what is there, and its stream from before the scan.

What is stored while the scan goes on may come twice, by both, and the stream repeats and reorders besides. A gate makes
each commit come once and in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from ....errors import StoreClosed, StoreRejected
from ....store import Commit
from ....usage import Usage
from ...feed import Batch
from ..wire.client import Client, ServiceError
from ..wire.outcomes import DeadlinePassed, is_worth_repeating, rejected, send
from ..wire.responses import ask
from .checkpoint import Checkpoint, check_age, parsed
from .lineage import from_before, from_now
from .shard_reader import list_shards
from .stream_reader import StreamReader

if TYPE_CHECKING:
    from ..store import DynamoDBStore

T = TypeVar("T")


class _Specification(msgspec.Struct):
    StreamEnabled: bool = False
    StreamViewType: str = ""


class _Table(msgspec.Struct):
    LatestStreamArn: str = ""
    StreamSpecification: _Specification = msgspec.field(default_factory=_Specification)


class _Described(msgspec.Struct):
    Table: _Table


class TableFeed:
    """The feed of a store's table, for one time that the store is open."""

    def __init__(self, store: DynamoDBStore, max_connections: int) -> None:
        self._store = store
        self._connections = asyncio.Semaphore(max_connections)
        self._opening = asyncio.Lock()
        self._client: Client | None = None
        self._readers: set[StreamReader] = set()

    async def batches(self, after: str, *, follow: bool) -> AsyncGenerator[Batch]:
        """As `DynamoDBStore.feed`."""
        checkpoint = parsed(after) if after else None
        stream = await self._stream()
        if checkpoint is None:
            listing = await list_shards(self._ask, stream)
            checkpoint = Checkpoint(stream, int(listing.asked), [from_before(listing.shards)], scan="")
        else:
            checkpoint = checkpoint.on(stream)
        check_age(checkpoint.since)
        if checkpoint.scan is not None:
            async with aclosing(self._store.scan(after=checkpoint.scan)) as batches:
                async for batch in batches:
                    check_age(checkpoint.since)
                    scan = None if batch.caught_up else batch.checkpoint
                    checkpoint = msgspec.structs.replace(checkpoint, scan=scan)
                    yield Batch(batch.commits, checkpoint.text(), caught_up=False)
        self._readers.add(reader := StreamReader(self._ask, checkpoint, self._commits))
        try:
            async with aclosing(reader.batches(follow=follow)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            self._readers.discard(reader)

    async def end(self) -> str:
        """As `DynamoDBStore.end`."""
        listing = await list_shards(self._ask, stream := await self._stream())
        return Checkpoint(stream, int(listing.asked), [from_now(listing.shards)]).text()

    def close(self) -> None:
        """End those who follow."""
        for reader in self._readers:
            reader.fail(StoreClosed("DynamoDBStore was closed, which ends its feeds"))

    async def _stream(self) -> str:
        """The ARN of the table's stream. Raises StoreRejected if there is none that will do, and StoreError."""
        client = self._store._requests.client
        request = {"TableName": self._store._table}
        try:
            table = (await self._send(client, "DescribeTable", request, _Described)).Table
        except ServiceError as error:
            raise rejected(error) from None
        if not table.StreamSpecification.StreamEnabled:
            raise StoreRejected("StreamSpecification", "the table has no stream; turn it on, with view type NEW_IMAGE")
        if table.StreamSpecification.StreamViewType not in ("NEW_IMAGE", "NEW_AND_OLD_IMAGES"):
            raise StoreRejected("StreamViewType", "the stream carries no new images; make it anew, as NEW_IMAGE")
        return table.LatestStreamArn

    async def _ask(self, operation: str, request: dict[str, Any], kind: type[T]) -> T:
        """Of the stream. Raises ServiceError for a refusal, and StoreError."""
        async with self._opening:
            if self._client is None:
                with self._store.in_flight():
                    self._client = await self._store._open_streams()
        return await self._send(self._client, operation, request, kind)

    async def _send(self, client: Client | None, operation: str, request: dict[str, Any], kind: type[T]) -> T:
        assert client is not None
        store, used = self._store, Usage(calls=1)
        with store.in_flight(used=used):
            return await sent(client, operation, request, kind, self._connections, store._requests.deadline, used)

    def _commits(self, records: list[dict[str, Any]]) -> list[Commit]:
        return [change.commit for change in self._store.changes(records) if change.commit is not None]


async def sent(
    client: Client,
    operation: str,
    request: dict[str, Any],
    kind: type[T],
    connections: asyncio.Semaphore,
    deadline: float,
    used: Usage,
) -> T:
    """The answer to a request that may be sent twice. Raises ServiceError for a refusal, and StoreError."""

    async def once() -> T:
        used.requests += 1
        used.retries += used.requests > 1
        return await ask(client, operation, request, kind)

    try:
        return await send(once, connections, deadline)
    except DeadlinePassed as given_up:
        last = given_up.last
        # What became of an earlier try does not matter here.
        refusal = last if isinstance(last, ServiceError) and not is_worth_repeating(last) else None
        raise refusal or given_up.definite() from None
