"""The store on DynamoDB: one item per commit, one request per save and per load."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from ...errors import CommitOutcomeUnknown, TransactionOutcomeUnknown
from ...store import MAX_VERSION, Commit, EventId, Loaded, Receipt, Snapshot
from ...stream_id import check_stream
from ...usage import Usage
from ..feed import Batch, Head, select
from ..lifecycle import ManagedStore
from ..settle import settle
from ..transacting import Guard, check_transaction
from .feed.change_records import ChangeRecord, read_changes
from .feed.checkpoint import count_remaining, find_age, find_earliest
from .feed.scan import scan_commits, scan_heads
from .feed.table_feed import TableFeed
from .identity import Identity
from .items import Items
from .layouts import LAYOUTS, LayoutName
from .layouts.layout import SortKey
from .lookup import TableLookup
from .partitions import TablePartitions, find_stored
from .table import Table
from .transactions import Action, TableTransaction
from .wire.connection import DEADLINE, MAX_CONNECTIONS, Connection
from .wire.outcomes import ConditionNotMet
from .wire.responses import Response


class DynamoDBStore(ManagedStore):
    """A store in a DynamoDB table. Each stream is a partition.

    The partition key is the stream (S), the sort key is the version (N).

    - The store opens one long-lived client from `session` (of aiobotocore or aioboto3), `region_name` and
      `endpoint_url`, and closes it. Or it uses `client` (of aiobotocore, already open), which the caller closes.
    - A feed opens a client of DynamoDB Streams in the same way, or uses `streams_client`. With `client`, a feed needs
      `streams_client`.
    - All clients belong to one event loop.
    - Opening the store raises StoreRejected for an endpoint without encryption, unless it is on this machine or
      `plain_http` is true.
    - `deadline` is the number of seconds that a call may take, including retries.
    - `max_connections` limits the requests in flight.
    - Several tenants may share a table. A store object sees one `tenant`.
    """

    ordered = False
    earliest = staticmethod(find_earliest)
    remaining = staticmethod(count_remaining)
    behind = staticmethod(find_age)

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
            raise ValueError(f"layout {layout!r} is not known; choose one of {', '.join(LAYOUTS)}")
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
        self.deadline, self.layout = deadline, layout
        self._layout = LAYOUTS[layout]()
        self._table_feed = TableFeed(self.table, self.items, self.scan)
        self._identity = Identity(self.table, self.items)
        self._lookup = TableLookup(self.table, self.items, self.scan)

    async def append(self, commit: Commit) -> Receipt:
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
                await self.table.send("PutItem", request, Response, used, unknown=partial(CommitOutcomeUnknown, commit))
            except ConditionNotMet as failed:
                stored = self.items.read_stored(failed.reply, commit)
            else:
                return settle(commit, commit, used)
            if stored is None:  # the endpoint does not return the stored item
                stored = await find_stored(
                    TablePartitions(self.table, self.items, used), commit, CommitOutcomeUnknown(commit)
                )
            return settle(commit, self.items.to_commit(stored, commit.stream), used)

    async def append_all(
        self,
        commits: Sequence[Commit],
        guards: Sequence[Guard] = (),
        *,
        inline: Callable[[list[Action]], None] | None = None,
    ) -> Sequence[Receipt]:
        """Store all these commits or none, as `Transacting.append_all`, in one TransactWriteItems.

        - It takes twice the write units of single commits, and two units for each guard. One commit alone, without
          guards, is a single put.
        - `inline` is called once, before anything is sent, with a list to which it appends actions: dicts as in
          TransactWriteItems with Put, Update or Delete, without conditions. They count as streams do.
        """
        check_transaction(commits, guards)
        actions: list[Action] = []
        if inline is not None and commits:
            inline(actions)
        if len(commits) == 1 and not guards and not actions:
            try:
                return [await self.append(commits[0])]
            except CommitOutcomeUnknown as unknown:
                raise TransactionOutcomeUnknown(commits, guards, unknown.reason) from None
        used = Usage(calls=1)
        transaction = TableTransaction(self.table, self.items, commits, guards, actions, used)
        with self.in_flight(used=used):
            return await transaction.run()

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
        last_key: SortKey | None = None
        while True:
            used = Usage(calls=1)
            with self.in_flight(used=used):
                partitions = TablePartitions(self.table, self.items, used)
                page = await partitions.query(
                    stream, first, last, after=last_key, backward=backward, stop_at_damaged=True
                )
            for commit in page.commits:
                yield commit
            if page.error is not None:
                raise page.error
            last_key = page.last_key
            if last_key is None or (last_key <= first if backward else last_key >= last):
                return

    async def put_snapshot(self, snapshot: Snapshot) -> bool:
        used = Usage(calls=1)
        with self.in_flight(closing=True, used=used):
            return await self._layout.put_snapshot(TablePartitions(self.table, self.items, used), snapshot)

    def changes(self, event: object) -> Iterator[ChangeRecord]:
        """Iterate over the changes of this table in an event.

        An event has records of DynamoDB Streams or of Kinesis Data Streams for DynamoDB, as the SDK, AWS Lambda or
        EventBridge Pipes deliver them, or it is a line of an export to S3.

        - The changes have the order of the event. They may be repeated, and a stream's versions may be out of order.
        - The store need not be open.

        Raises:
            ValueError: the event has none of these forms.
            StoreRejected: the stream carries no new images, or a record is of another table. Records that name no table
                are accepted.
            CorruptPayload: this library did not write the item.
        """
        return read_changes(event, self.items, self.table.name)

    async def scan(
        self,
        *,
        after: str = "",
        segments: int = 4,
        units_per_second: float | None = None,
        report_damaged: bool = False,
    ) -> AsyncGenerator[Batch]:
        """Iterate over all commits of the table, each stream's in order, in parallel segments.

        - Commits that are stored during the scan may be missing. Reads are eventually consistent, for half the
          units of consistent ones.
        - `after` is the checkpoint of a batch, to resume a scan. A resumed scan keeps its number of segments.
        - `units_per_second` limits the read units that the scan consumes, which leaves capacity for other requests. One
          request of the scan reads up to 1 MB and takes up to 128 units. A server that does not report units is not
          limited.
        - With `report_damaged`, an item that cannot be read is named in its batch, and does not end the scan.

        Raises:
            ValueError: `after` is not a checkpoint of a scan, or a number is not above 0.
            StoreError: a request failed.
            CorruptPayload: this library did not write an item.
        """
        if not 1 <= segments <= 1_000_000 or (units_per_second is not None and not units_per_second > 0):
            raise ValueError(f"segments {segments} and units_per_second {units_per_second} must be above 0")

        request = {"TableName": self.table.name, "ReturnConsumedCapacity": "TOTAL"}
        batches = scan_commits(
            partial(self.table.scan, kind=self.items.query_response),
            request,
            self.items,
            segments=segments,
            after=after,
            units_per_second=units_per_second,
            report_damaged=report_damaged,
        )
        async with aclosing(batches):
            async for batch in batches:
                yield batch

    async def identity(self) -> str:
        """Return the identity of the table and the tenant, as `Feed.identity`.

        The first call for a table writes an item (docs/storage.md). A store object asks once each time it is opened.
        """
        return await self._identity.read()

    async def clock(self) -> int:
        """Return the time by the service's clock, rounded down to seconds, as `Feed.clock`.

        It takes one request of half a read unit. Raises StoreRejected if responses have no Date header.
        """
        return await self.table.clock(self.items.identity_key)

    async def feed(
        self, *, after: str = "", follow: bool = True, report_damaged: bool = False, categories: Collection[str] = ()
    ) -> AsyncGenerator[Batch]:
        """Iterate over all commits, as `Feed.feed`, from the table's stream, which repeats and reorders them.

        - With an empty `after`, the table is scanned first. The stream is then read from before the start of the scan.
        - A checkpoint resumes the scan as well.
        - A checkpoint is valid for 23 hours, because the stream keeps changes for 24. Save the checkpoint of each
          batch, including batches without commits.
        - `caught_up` means that each shard returned several empty pages in a row. The service does not report the end
          of an open shard, and a commit appears in the stream a moment after it is stored.
        - An item of another program is ignored, unless its keys can be those of a commit.
        - Items of other categories than `categories` are read all the same. If one of them cannot be read, the feed
          ends, unless damaged items are reported.

        Raises:
            FeedTrimmed: commits could be missed, because the checkpoint is too old, the scan took too long, or the
                stream was turned off.
            StoreRejected: the table has no stream of new images.
        """
        async with aclosing(self._table_feed.batches(after, follow=follow, report_damaged=report_damaged)) as batches:
            async for batch in batches:
                yield select(batch, categories)

    async def end(self) -> str:
        """Return the checkpoint of the end, as `Feed.end`.

        Commits that were stored more than two minutes before, by the service's clock, are not delivered. The feed reads
        the beginning of each open shard all the same, which takes a moment: only a record's sequence number can name a
        point within a shard.
        """
        return await self._table_feed.end()

    async def heads(self) -> AsyncGenerator[Sequence[Head]]:
        """Iterate over the heads of all streams, as `Feed.heads`.

        This is a strongly consistent scan of the whole table, which takes one read unit for each 4 KB.
        """
        request = {"TableName": self.table.name, "ReturnConsumedCapacity": "TOTAL"}
        scan_page = partial(self.table.scan, kind=self.items.query_response)
        async with aclosing(scan_heads(scan_page, request, self.items, segments=4)) as pages:
            async for heads in pages:
                yield heads

    def correlated(self, correlation_id: str) -> AsyncGenerator[Commit]:
        """Yield the commits of a trace, as `Lookup.correlated`.

        - With the index of `create_table(traces=True)`, this takes a request for each MB, and one for the commit that
          starts a trace without a correlation id. Reads of the index are eventually consistent.
        - Without the index it scans the table, and logs a warning that says what this costs.
        """
        return self._lookup.correlated(correlation_id)

    def effects_of(self, cause: EventId | str, *, correlation_id: str | None = None) -> AsyncGenerator[Commit]:
        """Yield the commits that an event has caused, as `Lookup.effects_of`.

        - With the index of `create_table(traces=True)` these are the effects in the same trace. Effects that were given
          another correlation id with `trace(...)` are not found.
        - Without the index, or if the event is not in this table and `correlation_id` is not given, this scans the
          table, and logs a warning that says what it costs.
        """
        return self._lookup.effects_of(cause, correlation_id=correlation_id)

    async def create_table(
        self,
        *,
        stream: bool = False,
        traces: bool = False,
        point_in_time_recovery: bool = False,
        deletion_protection: bool = False,
    ) -> bool:
        """Create the table, billed on demand, and wait until it can be used. Return False if it exists already.

        - `stream` turns on DynamoDB Streams with new images.
        - `traces` makes an index of the commits that have a correlation id, for `correlated` and `effects_of`. Each of
          these commits then takes as many write units again, and its storage twice.
        - An existing table keeps its settings, except that `stream`, `traces` and `point_in_time_recovery` are turned
          on for it too. Several processes may call this at the same time.

        Raises:
            StoreRejected: the service refuses the request, or an existing table has different keys, or a stream without
                new images.
            Throttled, StoreUnavailable: the table is not ready; call it again.
        """
        return await self.table.create(
            stream=stream,
            traces=self.items.trace_keys if traces else None,
            point_in_time_recovery=point_in_time_recovery,
            deletion_protection=deletion_protection,
        )

    async def on_open(self) -> None:
        await self.table.connection.open()
        self._identity = Identity(self.table, self.items)
        self._table_feed = TableFeed(self.table, self.items, self.scan)

    async def aclose(self) -> None:
        self._table_feed.close()
        await super().aclose()

    async def on_close(self) -> None:
        await self.table.connection.aclose()
