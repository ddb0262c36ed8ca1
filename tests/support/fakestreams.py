"""DynamoDB Streams in memory, with the interface of the SDK's client: shards that are split, closed, trimmed and
dropped, empty pages, iterators that expire, lists of shards that lag, and errors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from types import SimpleNamespace
from typing import Any
from zlib import crc32

from botocore.exceptions import ClientError

from eventsrc.store import Commit
from eventsrc.stores.dynamodb.items import Items

ARN = "arn:aws:dynamodb:us-east-1:0:table/ledger/stream/1"
HASHES = 2**32


def refused(code: str, status: int = 400) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "call")


@dataclass
class FakeShard:
    """A shard with the streams whose hash is from `low` (inclusive) to `high` (exclusive)."""

    parent: str | None
    low: int
    high: int
    records: list[dict[str, Any]] = field(default_factory=list)
    trimmed: int = 0  # how many of the oldest records are trimmed
    closed: bool = False
    hidden: int = 0  # how many more times it is missing when the shards are listed

    def items(self) -> list[dict[str, Any]]:
        """Return the keys of the items that the shard has records of."""
        return [record["dynamodb"]["Keys"] for record in self.records]


class FakeStreams:
    """The client. `faults` has the errors that the next calls of an operation raise, one each."""

    def __init__(self, *, random: Random | None = None, shards: int = 1, page: int = 3, empty: float = 0.0) -> None:
        self.meta = SimpleNamespace(events=SimpleNamespace(register=lambda *_, **__: None))
        self.shards: dict[str, FakeShard] = {}
        self.faults: dict[str, list[Exception]] = {}
        self.calls: list[str] = []
        self.status = "ENABLED"
        self._random, self._page, self._empty = random or Random(0), page, empty
        self._items = Items("PK", "SK", None)
        self._iterators: dict[str, tuple[str, int, int]] = {}  # shard, place, consecutive empty pages
        self.listed: list[str] = []  # the shards that the last list had
        self._sequence = self._made = 0
        for each in range(shards):
            self._add(None, each * HASHES // shards, (each + 1) * HASHES // shards)

    def write(self, commits: Iterable[Commit], at: datetime | None = None) -> None:
        """Add records of these commits, in random order."""
        for commit in self._random.sample(commits := list(commits), len(commits)):
            self._sequence += self._random.randrange(1, 90)
            item = self._items.from_commit(commit)
            record: dict[str, Any] = {"Keys": {name: item[name] for name in ("PK", "SK")}, "NewImage": item}
            record |= {"SequenceNumber": str(self._sequence), "ApproximateCreationDateTime": at or datetime.now(UTC)}
            self.shard_of(commit).records.append({"eventName": "INSERT", "dynamodb": record})

    def shard_of(self, commit: Commit) -> FakeShard:
        """Return the open shard that the commit's record goes to."""
        number = crc32(commit.stream.encode())
        [found] = [each for each in self.shards.values() if not each.closed and each.low <= number < each.high]
        return found

    def holding(self, commit: Commit) -> FakeShard:
        """Return the shard that has the commit's record."""
        keys = {"PK": {"S": commit.stream}, "SK": {"N": str(commit.version)}}
        [found] = [s for s in self.shards.values() if keys in s.items()]
        return found

    def before(self, shard: FakeShard) -> list[FakeShard]:
        """Return the ancestors of a shard that still exist."""
        parent = self.shards.get(shard.parent or "")
        return [parent, *self.before(parent)] if parent else []

    def open(self) -> list[str]:
        return [id for id, shard in self.shards.items() if not shard.closed]

    def roll(self, id: str, *, parts: int = 1, lag: int = 0) -> None:
        """Close a shard and open `parts` children, which lists show after up to `lag` more calls."""
        shard = self.shards[id]
        shard.closed = True
        width = shard.high - shard.low
        for each in range(parts):
            hidden = self._random.randrange(lag + 1)
            self._add(id, shard.low + width * each // parts, shard.low + width * (each + 1) // parts, hidden)

    def _add(self, parent: str | None, low: int, high: int, hidden: int = 0) -> None:
        self._made += 1
        self.shards[f"shardId-{self._made:08}"] = FakeShard(parent, low, high, hidden=hidden)

    def expire(self) -> None:
        """Expire all iterators."""
        self._iterators.clear()

    async def describe_stream(self, *, StreamArn: str, ExclusiveStartShardId: str = "") -> dict[str, Any]:  # noqa: N803
        self._begin("DescribeStream", StreamArn)
        if not ExclusiveStartShardId:
            self.listed = [
                id for id, each in self.shards.items() if not any(s.hidden for s in (each, *self.before(each)))
            ]
            for each in self.shards.values():
                each.hidden = max(each.hidden - 1, 0)
        found = [id for id in self.listed if id > ExclusiveStartShardId and id in self.shards]
        description: dict[str, Any] = {"StreamStatus": self.status, "Shards": [self._describe(id) for id in found[:2]]}
        if len(found) > 2:
            description["LastEvaluatedShardId"] = found[1]
        return {"StreamDescription": description}

    def _describe(self, id: str) -> dict[str, Any]:
        shard, numbers = self.shards[id], {"StartingSequenceNumber": "1"}
        if shard.closed:
            numbers["EndingSequenceNumber"] = str(self._sequence)
        parent = {"ParentShardId": shard.parent} if shard.parent is not None else {}
        return {"ShardId": id, "SequenceNumberRange": numbers, **parent}

    async def get_shard_iterator(
        self,
        *,
        StreamArn: str,  # noqa: N803
        ShardId: str,  # noqa: N803
        ShardIteratorType: str,  # noqa: N803
        SequenceNumber: str = "",  # noqa: N803
    ) -> dict[str, Any]:
        self._begin("GetShardIterator", StreamArn)
        if ShardId not in self.shards:
            raise refused("ResourceNotFoundException")
        shard = self.shards[ShardId]
        place = shard.trimmed
        if ShardIteratorType == "AFTER_SEQUENCE_NUMBER":
            numbers = [record["dynamodb"]["SequenceNumber"] for record in shard.records]
            place = numbers.index(SequenceNumber) + 1
            if place <= shard.trimmed:
                raise refused("TrimmedDataAccessException")
        return {"ShardIterator": self._iterator(ShardId, place, 0)}

    async def get_records(self, *, ShardIterator: str, Limit: int) -> dict[str, Any]:  # noqa: N803
        self._begin("GetRecords")
        if ShardIterator not in self._iterators:
            raise refused("ExpiredIteratorException")
        id, place, empty = self._iterators[ShardIterator]
        if (shard := self.shards.get(id)) is None:
            raise refused("ResourceNotFoundException")
        if place < shard.trimmed or (shard.closed and 0 < shard.trimmed == len(shard.records)):
            raise refused("TrimmedDataAccessException")
        records = shard.records[place : place + min(Limit, self._page)]
        if records and empty < 4 and self._random.random() < self._empty:
            return {"Records": [], "NextShardIterator": self._iterator(id, place, empty + 1)}
        place += len(records)
        answer: dict[str, Any] = {"Records": records}
        if not shard.closed or place < len(shard.records):
            answer["NextShardIterator"] = self._iterator(id, place, 0)
        return answer

    def _iterator(self, shard: str, place: int, empty: int) -> str:
        self._iterators[key := f"{shard}|{place}|{empty}|{len(self.calls)}"] = (shard, place, empty)
        return key

    def _begin(self, call: str, stream: str = ARN) -> None:
        self.calls.append(call)
        if faults := self.faults.get(call):
            raise faults.pop(0)
        if stream != ARN:
            raise refused("ResourceNotFoundException")
