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
from ..wire.outcomes import rejected
from .lineage import Shard

T = TypeVar("T")

PAGE = 1_000  # records, the most there are; 1 MB ends a page too
QUIET = 5  # empty pages in a row after which a shard counts as read to its present end: some can precede records
EVERY, BURST = 0.2, 8  # seconds from request to request, but for so many at once after a pause
REFUSALS = 5  # to read a closed shard's beginning, after which there is nothing left of it
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0  # seconds, on a shard that is quiet

_EXPIRED, _TRIMMED, GONE = "ExpiredIteratorException", "TrimmedDataAccessException", "ResourceNotFoundException"


class Send(Protocol):
    """Sends a request until the answer is definite. Raises ServiceError for a refusal, and StoreError."""

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
    """No next iterator: the shard is closed, and this is its last page."""

    Records: list[dict[str, Any]] = []
    NextShardIterator: str | None = None


class Listing(NamedTuple):
    """The shards of a stream; `on` unless the stream has been turned off."""

    shards: Sequence[Shard]
    on: bool
    asked: float  # seconds since the epoch


class Page(NamedTuple):
    """Of one shard. `since`: what comes behind it was stored later, in seconds since the epoch."""

    shard: str
    records: list[dict[str, Any]]
    sequence: str  # of the last record that was read of the shard
    since: float
    quiet: bool = False
    ended: bool = False


async def list_shards(send: Send, stream: str) -> Listing:
    """Raises FeedTrimmed if the stream is gone, and StoreError."""
    shards: list[Shard] = []
    asked, request = time(), {"StreamArn": stream}
    while True:
        try:
            found = (await send("DescribeStream", request, _Description)).StreamDescription
        except ServiceError as error:
            raise feed_trimmed("the table's stream") if error.code == GONE else rejected(error) from None
        shards += found.Shards
        if found.LastEvaluatedShardId is None:
            return Listing(shards, found.StreamStatus != "DISABLED", asked)
        request = {"StreamArn": stream, "ExclusiveStartShardId": found.LastEvaluatedShardId}


async def read_shard(
    send: Send, stream: str, shard: str, sequence: str, room: asyncio.Semaphore, closed: Callable[[], bool]
) -> AsyncGenerator[Page]:
    """Pages with records behind that sequence number, or from the shard's beginning, and those that show that it is
    quiet or has ended. Each takes room, which is to be released when the page has been handled. `closed` tells whether
    the shard is known to be.

    Raises FeedTrimmed if what comes next is gone, and StoreError.
    """
    turns, pause, iterator, refusals = _Turns(), 0.0, "", 0
    empty: deque[float] = deque(maxlen=QUIET)  # when the last pages were asked for, which were empty
    while True:
        await turns.wait(pause)
        await room.acquire()
        fresh, asked = not iterator, time()
        try:
            iterator = iterator or await _get_iterator(send, stream, shard, sequence)
            page = await send("GetRecords", {"ShardIterator": iterator, "Limit": PAGE}, _Records)
        except ServiceError as error:
            refusals += (trimmed := error.code == _TRIMMED)
            if trimmed and not sequence and refusals > REFUSALS and closed():
                page = _Records()  # all of it has been trimmed, so it is older than what is to be told
            else:
                room.release()
                # An iterator may be too old, or refused because what it stood at has been trimmed, or, by DynamoDB
                # Local, because the shard is empty. A fresh one shows whether the place is gone. The beginning of a
                # shard never is: how old it can be is watched by who reads the stream.
                if error.code == _EXPIRED or (trimmed and not (sequence and fresh)):
                    iterator, pause = "", FIRST_PAUSE
                    continue
                lost = trimmed or error.code == GONE
                raise feed_trimmed(f"what comes next in shard {shard}") if lost else rejected(error) from None
        except BaseException:
            room.release()
            raise
        refusals = 0
        ended, iterator = page.NextShardIterator is None, page.NextShardIterator or ""
        if page.Records:
            empty.clear()
            sequence, pause = page.Records[-1]["dynamodb"]["SequenceNumber"], 0.0
            since = _stored_at(page.Records[-1])
        else:
            empty.append(asked)
            since = empty[0]
        quiet = len(empty) == QUIET
        if page.Records or quiet or ended:
            yield Page(shard, page.Records, sequence, since if page.Records or quiet else 0.0, quiet, ended)
        else:
            room.release()
        if ended:
            return
        if quiet:
            pause = min(max(pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
        elif len(page.Records) == PAGE:
            turns.give_back()


async def _get_iterator(send: Send, stream: str, shard: str, sequence: str) -> str:
    request = {"StreamArn": stream, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"}
    if sequence:
        request |= {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": sequence}
    return (await send("GetShardIterator", request, _Iterator)).ShardIterator


def feed_trimmed(what: str) -> FeedTrimmed:
    return FeedTrimmed(f"{what} is gone, as DynamoDB keeps changes for 24 hours")


def _stored_at(record: dict[str, Any]) -> float:
    """About when, and not later; the SDK has it as a datetime."""
    told = record["dynamodb"].get("ApproximateCreationDateTime", 0)
    return told.timestamp() if isinstance(told, datetime) else float(told)


class _Turns:
    """A request every so many seconds in the long run, and a few at once after a pause."""

    def __init__(self) -> None:
        self._next = 0.0

    async def wait(self, pause: float) -> None:
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now - EVERY * BURST) + EVERY
        await asyncio.sleep(max(pause, self._next - now))

    def give_back(self) -> None:
        """The last one does not count."""
        self._next -= EVERY
