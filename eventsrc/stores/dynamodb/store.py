"""The store on DynamoDB: one item per commit, one request per save, one per load."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from ...errors import CommitOutcomeUnknown, StoreError
from ...store import MAX_VERSION, Commit, Loaded, Receipt, Snapshot
from ...stream_id import check_stream
from ...usage import Usage
from ..feed import Batch, Head
from ..lifecycle import ManagedStore
from ..settle import settle
from .feed.change_records import ChangeRecord, read_changes
from .feed.checkpoint import find_earliest, parse_checkpoint
from .feed.scan import scan_commits, scan_heads
from .feed.table_feed import TableFeed
from .items import Items, Keyed, Stored
from .layouts import LAYOUTS, LayoutName
from .layouts.layout import SortKey
from .partitions import TablePartitions
from .table import Table
from .wire.connection import DEADLINE, MAX_CONNECTIONS, Connection
from .wire.outcomes import ConditionNotMet
from .wire.responses import QueryResponse, Response


class DynamoDBStore(ManagedStore):
    """Streams in a DynamoDB table, a partition each: partition key the stream (S), sort key the version (N).

    The store owns one long-lived client, made from `session` (an aioboto3.Session), `region_name` and
    `endpoint_url`; or it uses `client` (aiobotocore-like, already open) and leaves closing it to the caller. Both
    belong to one event loop. A feed makes a client of the table's stream likewise, or uses `streams_client`: beside a
    `client` it must. An endpoint without encryption is refused when it is opened, unless it is on this machine or
    `plain_http` allows it. `deadline` is the time in seconds that a call may take, retries and all; `max_connections`
    bounds the requests in flight. Several tenants may share a table: each store object sees one.
    """

    ordered = False

    def __init__(
        self,
        table: str,
        *,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        session: Any = None,
        client: Any = None,
        streams_client: Any = None,
        tenant: str | None = None,
        layout: LayoutName = "snapshot-last",
        partition_key: str = "PK",
        sort_key: str = "SK",
        plain_http: bool = False,
        deadline: float = DEADLINE,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        super().__init__()
        if layout not in LAYOUTS:
            raise ValueError(f"layout {layout!r}: one of {', '.join(LAYOUTS)}")
        connection = Connection(
            region_name=region_name,
            endpoint_url=endpoint_url,
            session=session,
            client=client,
            streams_client=streams_client,
            plain_http=plain_http,
            deadline=deadline,
            max_connections=max_connections,
        )
        self.table = Table(
            table,
            partition_key=partition_key,
            sort_key=sort_key,
            sort_type="N",
            connection=connection,
            guard=lambda used: self.in_flight(used=used),
        )
        self.items = Items(partition_key, sort_key, tenant)
        self._layout = LAYOUTS[layout]()
        self._table_feed = TableFeed(self.table, self.items, self.scan)

    async def append(self, commit: Commit) -> Receipt:
        def unknown(reason: str) -> CommitOutcomeUnknown:
            return CommitOutcomeUnknown(commit.stream, commit.version, str(commit.uuid), reason)

        request = {
            "TableName": self.table.name,
            "Item": self.items.from_commit(commit),
            "ConditionExpression": "attribute_not_exists(#pk)",
            "ExpressionAttributeNames": {"#pk": self.items.partition_key},
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            "ReturnConsumedCapacity": "TOTAL",
        }
        used = Usage(calls=1)
        with self.in_flight(used=used):
            try:
                await self.table.send("PutItem", request, Response, used, unknown=unknown)
            except ConditionNotMet as failed:
                stored = self.items.read_stored(failed.reply)
            else:
                return settle(commit, commit, used)
            return await self._settle(commit, stored, used)

    async def load(self, stream: str) -> Loaded:
        check_stream(stream)
        used = Usage(calls=1)
        with self.in_flight(used=used):
            return await self._layout.load(TablePartitions(self.table, self.items, used), stream)

    async def read(
        self, stream: str, *, after: int = 0, until: int = MAX_VERSION, backward: bool = False
    ) -> AsyncGenerator[Commit]:
        check_stream(stream)
        first, last = max(after, 0) + 1, min(until, MAX_VERSION)
        if first > last:
            return
        beyond: SortKey | None = None
        while True:
            used = Usage(calls=1)
            with self.in_flight(used=used):
                partitions = TablePartitions(self.table, self.items, used)
                page = await partitions.query(stream, first, last, beyond=beyond, backward=backward)
            for commit in page.commits:
                yield commit
            beyond = page.reached
            if beyond is None or (beyond <= first if backward else beyond >= last):
                return

    async def put_snapshot(self, snapshot: Snapshot) -> bool:
        used = Usage(calls=1)
        with self.in_flight(closing=True, used=used):
            return await self._layout.put_snapshot(TablePartitions(self.table, self.items, used), snapshot)

    def changes(self, event: object) -> Iterator[ChangeRecord]:
        """The changes of this table that an event tells: records of DynamoDB Streams, of Kinesis Data Streams for
        DynamoDB, both also as AWS Lambda and EventBridge Pipes deliver them, or a line of an export to S3.

        They come as the event has them: repeated, and between a stream's versions in no order that is promised. The
        store need not be open. Raises ValueError for anything else, StoreRejected if the stream carries no new images,
        and CorruptPayload for an item that is not of this library.
        """
        return read_changes(event, self.items)

    async def scan(
        self, *, after: str = "", segments: int = 4, units_per_second: float | None = None
    ) -> AsyncGenerator[Batch]:
        """All commits of the table, each stream's in order, read in parallel segments: what is there when the scan
        comes by, so later ones only by chance, and with eventual consistency, at half the units.

        A batch's checkpoint is where to go on; the scan that goes on has the segments of the one it continues.
        `units_per_second` spreads the read units that it takes, so that others have their share; requests of up to
        1 MB take 128. Raises ValueError for what is no checkpoint, and StoreError and CorruptPayload.
        """
        if not 1 <= segments <= 1_000_000 or (units_per_second is not None and not units_per_second > 0):
            raise ValueError(f"segments {segments} and units_per_second {units_per_second} must be above 0")

        request = {"TableName": self.table.name, "ReturnConsumedCapacity": "TOTAL"}
        batches = scan_commits(
            self._scan_page, request, self.items, segments=segments, after=after, units_per_second=units_per_second
        )
        async with aclosing(batches):
            async for batch in batches:
                yield batch

    async def feed(self, *, after: str = "", follow: bool = True) -> AsyncGenerator[Batch]:
        """As `Feed.feed`, of the table's stream, which repeats and reorders. From the beginning on, the table is
        scanned first, and the stream is then read from before the scan.

        A checkpoint goes on within the scan too. It holds for 23 hours, as the stream keeps a day, so each batch's is
        to be kept, also one without commits. `caught_up` says that each shard gave several empty pages in a row: the
        service tells of no end, and needs a moment for what has just been stored.

        Raises FeedTrimmed where going on could miss something: the checkpoint is too old, the scan has taken too long,
        or the stream has been turned off meanwhile; StoreRejected for a table without a stream of new images.
        """
        async with aclosing(self._table_feed.batches(after, follow=follow)) as batches:
            async for batch in batches:
                yield batch

    async def end(self) -> str:
        """As `Feed.end`. Behind it come also the older commits of the shards that are open, those of some hours: no
        place in a shard is durable that no record has.
        """
        return await self._table_feed.end()

    def earliest(self, checkpoints: Iterable[str]) -> str:
        """As `Feed.earliest`."""
        return find_earliest(checkpoints)

    async def remaining(self, after: str) -> int | None:
        """None: only a scan could tell. Raises ValueError for what is no checkpoint."""
        if after:
            parse_checkpoint(after)
        return None

    async def heads(self) -> AsyncGenerator[Sequence[Head]]:
        """As `Feed.heads`: a consistent scan of the whole table, at a read unit for 4 KB."""
        request = {"TableName": self.table.name, "ReturnConsumedCapacity": "TOTAL"}
        async with aclosing(scan_heads(self._scan_page, request, self.items, segments=4)) as pages:
            async for heads in pages:
                yield heads

    async def create_table(
        self, *, stream: bool = False, point_in_time_recovery: bool = False, deletion_protection: bool = False
    ) -> bool:
        """Create the table, billed on demand, and wait until it can be used. False if it was there already.

        `stream` turns on DynamoDB Streams with new images. A table that was there keeps its settings, but
        `point_in_time_recovery` is turned on for it too. Raises StoreRejected, also if its keys are others.
        """
        return await self.table.create(
            stream=stream, point_in_time_recovery=point_in_time_recovery, deletion_protection=deletion_protection
        )

    async def _settle(self, commit: Commit, stored: Stored | None, used: Usage) -> Receipt:
        """The slot is taken: by this very commit, which an earlier try had landed, or by another."""
        if stored is None:  # an endpoint that does not return what stood there
            try:
                stored = await TablePartitions(self.table, self.items, used).get(commit.stream, commit.version)
            except StoreError as error:  # none of them is a definite no: what stands there may be this commit
                raise CommitOutcomeUnknown(commit.stream, commit.version, str(commit.uuid)) from error
            if stored is None:  # what was there is being deleted, or our own commit is still on its way
                raise CommitOutcomeUnknown(commit.stream, commit.version, str(commit.uuid))
        return settle(commit, self.items.to_commit(stored, commit.stream), used)

    async def _scan_page(self, request: dict[str, Any]) -> QueryResponse[Keyed]:
        used = Usage(calls=1)
        with self.in_flight(used=used):
            return await self.table.send("Scan", request, self.items.scan_response, used)

    async def on_open(self) -> None:
        await self.table.connection.open()
        self._table_feed = TableFeed(self.table, self.items, self.scan)

    async def aclose(self) -> None:
        self._table_feed.close()
        await super().aclose()

    async def on_close(self) -> None:
        await self.table.connection.aclose()
