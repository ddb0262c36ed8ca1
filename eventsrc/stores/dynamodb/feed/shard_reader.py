"""Reading one shard of a table's stream to its end.

See "GetRecords" and "GetShardIterator" in the Amazon DynamoDB Streams API Reference.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import datetime
from time import time
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from ....errors import FeedTrimmed
from ..wire.client import ServiceError
from ..wire.outcomes import to_store_rejected
from .lineage import Shard

T = TypeVar("T")

MAX_RECORDS = 1_000  # of one page, the service's maximum; a page also ends at 1 MB
QUIET_PAGES = 5  # empty pages in a row after which a shard is quiet; records can follow a few empty pages
REQUEST_INTERVAL = 0.2  # seconds from one request to the next
BURST = 8  # requests that may be sent at once after a pause
MAX_REFUSALS = 5  # refused reads of a closed shard's beginning, after which it counts as trimmed
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0  # seconds between requests to a quiet shard

_EXPIRED, _TRIMMED, GONE = "ExpiredIteratorException", "TrimmedDataAccessException", "ResourceNotFoundException"


class Send(Protocol):
    """Sends a request until its outcome is definite. Raises ServiceError if it is refused, and StoreError."""

    async def __call__(self, operation: str, request: dict[str, Any], kind: type[T]) -> T: ...


class _Described(msgspec.Struct):
    StreamStatus: str
    Shards: list[Shard] = []
    LastEvaluatedShardId: str | None = None


class _Description(msgspec.Struct):
    StreamDescription: _Described


class _Iterator(msgspec.Struct):
    ShardIterator: str


class _Records(msgspec.Struct):
    """A page of records. Without a next iterator, the shard is closed and this is its last page.

    The service sends `Records` with each page: a body such as `{}` would otherwise end the shard.
    """

    Records: list[dict[str, Any]]
    NextShardIterator: str | None = None


class Listing(NamedTuple):
    """The shards of a stream."""

    shards: Sequence[Shard]
    is_enabled: bool  # False if the stream was turned off
    requested_at: float  # seconds since the epoch


class Page(NamedTuple):
    """A page of one shard."""

    shard: str
    records: list[dict[str, Any]]
    sequence: str  # of the last record of the shard that was read, "" before the first
    since: float  # seconds since the epoch: later records of the shard were stored after this
    is_quiet: bool = False  # the shard was read to its end so far
    is_last: bool = False  # the shard is closed and was read to its end


async def list_shards(send: Send, stream: str) -> Listing:
    """Return the shards of a stream. Raises FeedTrimmed if the stream is gone, and StoreError."""
    shards: list[Shard] = []
    requested_at, request = time(), {"StreamArn": stream}
    while True:
        try:
            description = (await send("DescribeStream", request, _Description)).StreamDescription
        except ServiceError as error:
            raise feed_trimmed("the table's stream") if error.code == GONE else to_store_rejected(error) from None
        shards += description.Shards
        if description.LastEvaluatedShardId is None:
            return Listing(shards, description.StreamStatus != "DISABLED", requested_at)
        request = {"StreamArn": stream, "ExclusiveStartShardId": description.LastEvaluatedShardId}


async def read_shard(
    send: Send, stream: str, shard: str, sequence: str, room: asyncio.Semaphore, is_closed: Callable[[], bool]
) -> AsyncGenerator[Page]:
    """Iterate over the pages of a shard after a sequence number, or from its beginning if that is empty.

    - Empty pages are left out, unless they show that the shard is quiet or has ended.
    - `room` is acquired before each request. The caller releases it when it has handled the page.
    - `is_closed` returns whether the shard is known to be closed.

    Raises:
        FeedTrimmed: the next records are gone.
        StoreError: a request failed.
    """
    rate, pause, iterator, refusals = _RateLimit(), 0.0, "", 0
    empty: deque[float] = deque(maxlen=QUIET_PAGES)  # when the last empty pages in a row were requested
    while True:
        await rate.wait(pause)
        await room.acquire()
        is_new, requested_at = not iterator, time()
        try:
            iterator = iterator or await _get_iterator(send, stream, shard, sequence)
            page = await send("GetRecords", {"ShardIterator": iterator, "Limit": MAX_RECORDS}, _Records)
        except ServiceError as error:
            refusals += (is_trimmed := error.code == _TRIMMED)
            if is_trimmed and not sequence and refusals > MAX_REFUSALS and is_closed():
                page = _Records([])  # the whole shard was trimmed, so its records are older than those to deliver
            else:
                room.release()
                # An iterator is refused if it is too old or its record was trimmed, by DynamoDB Local also if the shard
                # is empty. A new iterator shows whether the next records are gone. At the beginning of a shard a new
                # iterator is always possible; there the reader of the stream checks the age of what may be missing.
                if error.code == _EXPIRED or (is_trimmed and not (sequence and is_new)):
                    iterator, pause = "", FIRST_PAUSE
                    continue
                is_gone = is_trimmed or error.code == GONE
                raise (
                    feed_trimmed(f"the next record of shard {shard}") if is_gone else to_store_rejected(error)
                ) from None
        except BaseException:
            room.release()
            raise
        refusals = 0
        is_last, iterator = page.NextShardIterator is None, page.NextShardIterator or ""
        if page.Records:
            empty.clear()
            sequence, pause = page.Records[-1]["dynamodb"]["SequenceNumber"], 0.0
            since = stored_at(page.Records[-1])
        else:
            empty.append(requested_at)
            since = empty[0]
        is_quiet = len(empty) == QUIET_PAGES
        if page.Records or is_quiet or is_last:
            yield Page(shard, page.Records, sequence, since if page.Records or is_quiet else 0.0, is_quiet, is_last)
        else:
            room.release()
        if is_last:
            return
        if is_quiet:
            pause = min(max(pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
        elif len(page.Records) == MAX_RECORDS:
            rate.give_back()


async def _get_iterator(send: Send, stream: str, shard: str, sequence: str) -> str:
    request = {"StreamArn": stream, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"}
    if sequence:
        request |= {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": sequence}
    return (await send("GetShardIterator", request, _Iterator)).ShardIterator


def feed_trimmed(what: str) -> FeedTrimmed:
    return FeedTrimmed(f"{what} is gone, as DynamoDB keeps changes for 24 hours")


def stored_at(record: dict[str, Any]) -> float:
    """Return about when the record was stored, and not later; 0 if it does not say. The SDK has it as a datetime."""
    stored = record["dynamodb"].get("ApproximateCreationDateTime", 0)
    return stored.timestamp() if isinstance(stored, datetime) else float(stored)


class _RateLimit:
    """Limits requests to one per REQUEST_INTERVAL in the long run, and to BURST at once after a pause."""

    def __init__(self) -> None:
        self._next = 0.0

    async def wait(self, pause: float) -> None:
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now - REQUEST_INTERVAL * BURST) + REQUEST_INTERVAL
        await asyncio.sleep(max(pause, self._next - now))

    def give_back(self) -> None:
        """Do not count the last request."""
        self._next -= REQUEST_INTERVAL
