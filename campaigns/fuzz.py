"""Fuzzing: for any bytes a decoder returns a result or raises one of the library's errors, nothing else."""

from __future__ import annotations

import asyncio
import resource
from base64 import b64encode
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from random import Random
from time import perf_counter
from typing import Any
from unittest.mock import patch
from zlib import crc32

import lz4.block
import msgspec

from eventsrc import (
    Aggregate,
    Commit,
    CommitOutcomeUnknown,
    DynamoDBStore,
    Event,
    EventsrcError,
    MemoryStore,
    Snapshot,
    SnapshotPolicy,
)
from eventsrc.aggregates.codec import LZ4, RAW, join, pack
from eventsrc.aggregates.declaration import declaration_of
from eventsrc.repository.snapshots import Snapshots
from eventsrc.stores.dynamodb.items import Items
from eventsrc.stores.dynamodb.partitions import TablePartitions, find_stored
from eventsrc.stores.dynamodb.wire.client import ServiceError, TransportError
from eventsrc.stores.dynamodb.wire.outcomes import CONDITION_FAILED, DeadlinePassed
from eventsrc.stores.dynamodb.wire.sdk import SDKReply
from eventsrc.stores.dynamodb.wire.signed_client import JSONReply
from eventsrc.stores.feed import Damaged
from eventsrc.stores.settle import settle
from eventsrc.stores.sqlite import pages
from eventsrc.stores.transacting import Guard
from eventsrc.usage import Usage

from .progress import report
from .report import Layer

STREAM = "till-1"
MEMORY = 256 * 1024  # KB by which the process may grow; a forged size claims gigabytes


class Line(msgspec.Struct):
    sku: str
    price: float
    notes: dict[str, str] = {}


class Sold(Event, tag="till.sold"):
    lines: list[Line]
    to: str | None = None


class Counted(Event, tag="till.counted"):
    cents: int
    seal: bytes = b""


class Till(Aggregate, tag="till"):
    cents: int = 0
    lines: list[Line] = msgspec.field(default_factory=list)

    def apply_sold(self, event: Sold) -> None:
        self.lines += event.lines

    def apply_counted(self, event: Counted) -> None:
        self.cents = event.cents


class Mutator:
    """Make bad inputs from good ones."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def __call__(self, good: bytes, other: bytes) -> bytes:
        """Apply zero to three changes of random kinds."""
        for _ in range(self._random.choice((0, 1, 1, 1, 2, 3))):
            good = self._random.choice(self._KINDS)(self, good, other)
        return good

    def _flip(self, data: bytes, _: bytes) -> bytes:
        if not data:
            return b"\x00"
        at = self._random.randrange(len(data))
        return data[:at] + bytes([data[at] ^ 1 << self._random.randrange(8)]) + data[at + 1 :]

    def _cut(self, data: bytes, _: bytes) -> bytes:
        return data[: self._random.randint(0, len(data))]

    def _insert(self, data: bytes, _: bytes) -> bytes:
        at = self._random.randint(0, len(data))
        return data[:at] + self._random.choice(INTERESTING) + data[at:]

    def _splice(self, data: bytes, other: bytes) -> bytes:
        return data[: self._random.randint(0, len(data))] + other[self._random.randint(0, len(other)) :]

    def _replace(self, data: bytes, _: bytes) -> bytes:
        piece = self._random.choice(INTERESTING)
        at = self._random.randint(0, len(data))
        return data[:at] + piece + data[at + len(piece) :]

    def _noise(self, data: bytes, _: bytes) -> bytes:
        return self._random.randbytes(self._random.randint(0, 60))

    _KINDS = (_flip, _flip, _cut, _insert, _splice, _replace, _noise)


INTERESTING = (
    b"\xdf\xff\xff\xff\xff",  # a map of four billion
    b"\xdd\xff\xff\xff\xff",  # an array of as many
    b"\xdb\xff\xff\xff\xff",  # a text
    b"\xc6\xff\xff\xff\xff",  # bytes
    b"\x91" * 2000,  # nested arrays
    b"\x81\xa1a" * 700,  # nested maps
    b"\xc7\x0c\xff" + bytes(12),  # a timestamp
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",  # NaN
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xa1\xff",  # a text that is not UTF-8
    b"\xc0",
    b"[" * 2000,
    b'{"a":' * 1000,
    b"null",
    b"-1",
    b"1e400",
    b"9" * 400,
    b'{"N":"1.5"}',
    b'{"NULL":true}',
    b'{"SS":["a"]}',
    b'{"B":"%%%"}',
    b'"\\ud800"',
    b"\x00",
    b"",
)


ODD: tuple[Any, ...] = (None, True, -1, 2**70, 1.5, "", "1.5", "-3", "x", b"x", [], {}, [None], {"S": 1}, {"N": "x"})


class Fuzzer:
    """Mutates valid inputs and passes them to the decoders."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._mutate = Mutator(random)
        self._codec = declaration_of(Till).codec
        self._snapshots = Snapshots(Till, MemoryStore(), SnapshotPolicy())
        self._items = Items("PK", "SK", None)
        self._store = DynamoDBStore("fuzzed")
        events: list[Event] = [
            Counted(cents=5),
            Counted(cents=2**40, seal=bytes(300)),
            Sold(lines=[Line("a", 1.5), Line("b", 2.0, {"x": "y"})], to="ann"),
        ]
        encoded = [self._codec.encode(event)[0] for event in events]
        self._bodies = [join(encoded[:1]), join(encoded), join(encoded * 9), join([])]
        self._payloads = [pack(body, STREAM, 1) for body in self._bodies]
        self._commits = [self._commit(version, payload) for version, payload in enumerate(self._payloads, 1)]
        till = Till(id="1")
        for event in events:
            till.record(event)
        till._journal.uncommitted.clear()
        till._journal.advance_to(self._commits[0])
        self._snapshot: Snapshot = self._snapshots._codec.encode(till)
        found = [self._items.from_commit(commit) for commit in self._commits]
        kept = self._items.from_snapshot(self._snapshot, 9_007_199_254_740_991)
        capacity = {"CapacityUnits": 1.0}
        self._answers: list[Any] = [
            {"ConsumedCapacity": capacity, "Items": [kept, *reversed(found)], "LastEvaluatedKey": found[0]},
            {"ConsumedCapacity": capacity, "Items": found[:1]},
            {"ConsumedCapacity": capacity, "Item": found[1]},
            {"__type": "x#ConditionalCheckFailedException", "Item": found[2], "message": "no"},
            {
                "__type": "x#TransactionCanceledException",
                "CancellationReasons": [{"Code": "None"}, {"Code": "ConditionalCheckFailed", "Item": found[1]}],
            },
        ]
        self._json = [msgspec.json.encode(answer) for answer in self._answers]

    def _commit(self, version: int, payload: bytes) -> Commit:
        return Commit(
            stream=STREAM,
            version=version,
            id=bytes([version] * 16),
            time=version,
            events=1,
            tags=("till.counted",),
            payload=payload,
            command_id="c-1",
            command_digest=b"12345678",
            metadata={"a": "b"},
            causation_ids=("a-1@1.0",),
        )

    async def payload(self) -> object:
        """Decode one payload. Half of them have a valid checksum, so that the code after the check is reached."""
        bad = self._bad_payload()
        self.input = bad
        return self._codec.decode(bad, STREAM, 1)

    async def run(self) -> object:
        """Decode many commits at once, one of them bad."""
        bad = self._bad_payload()
        self.input = bad
        commits = [*self._commits, self._commit(5, bad), *self._commits]
        return self._codec.decode_run(commits)

    async def snapshot(self) -> object:
        """Restore a snapshot. It may be used or ignored, but must not raise."""
        random = self._random
        bad = self._sealed(self._mutate(self._snapshot.payload, random.choice(self._payloads)))
        self.input = bad
        snapshot = msgspec.structs.replace(self._snapshot, payload=bad)
        try:
            return self._snapshots.restore("1", snapshot, self._commits)
        except Exception as error:
            raise Unexpected from error

    async def answer(self) -> object:
        """Read an answer of the service from bytes."""
        bad = self._mutate(self._random.choice(self._json), self._random.choice(self._json))
        self.input = bad
        return await self._asked(JSONReply(bad))

    async def parsed(self) -> object:
        """Read an answer as the SDK parses it: valid JSON, with any value in any place."""
        bad = self._altered(self._random.choice(self._answers))
        self.input = repr(bad).encode()
        return await self._asked(SDKReply(bad))

    async def row(self) -> object:
        """Read a row of SQLite with a record that the library does not write."""
        commit = Commit(stream=STREAM, version=1, id=bytes(16), time=1, events=1, tags=("a", "b"), payload=bytes(9))
        self.input = bad = self._mutate(msgspec.msgpack.encode(commit), b"\x91\xa1a")
        found = pages.to_commit(STREAM.encode(), 1, 1, bad)
        if isinstance(found, Damaged):
            raise found.error
        return found

    async def _asked(self, reply: Any) -> object:
        """Call the store with a client that gives this answer to every request, without retries."""
        client = Answering(reply)
        self._store.table.connection.client = client
        call, partitions = self._random.randrange(5), TablePartitions(self._store.table, self._items, Usage())
        if call == 0:
            return await partitions.query(STREAM, 1, 9, newest=self._random.random() < 0.5, backward=True)
        if call == 1:
            return await partitions.get_snapshot(STREAM, 0)
        if call == 2:
            commit = self._commits[0]
            stored = self._items.read_stored(reply, commit) or await find_stored(
                partitions, commit, CommitOutcomeUnknown(commit)
            )
            return settle(commit, self._items.to_commit(stored, STREAM), Usage())
        client.refuses = True
        if call == 3:
            other = msgspec.structs.replace(self._commits[0], stream="till-2")
            guards = [Guard(STREAM, 1)] if self._random.random() < 0.5 else [Guard("till-3", 0)]
            commits = [other] if guards[0].stream == STREAM else [other, self._commits[1]]
            with patch.object(self._store, "in_flight", lambda **_: nullcontext()):
                return await self._store.append_all(commits, guards)
        with patch.object(self._store, "in_flight", lambda **_: nullcontext()):  # it is not open
            return await self._store.append(self._commits[1])

    def _bad_payload(self) -> bytes:
        random = self._random
        if random.random() < 0.5:
            return self._mutate(random.choice(self._payloads), random.choice(self._payloads))
        body = self._mutate(random.choice(self._bodies), random.choice(self._bodies))
        if random.random() < 0.3:  # an lz4 block that claims any size
            return self._sealed(LZ4 + random.randbytes(4) + body + bytes(4))
        return self._sealed(RAW + body + bytes(4))

    def _sealed(self, payload: bytes) -> bytes:
        """Return the payload, in most cases with a valid checksum."""
        if self._random.random() < 0.2 or len(payload) < 5:
            return payload
        content = payload[:-4]
        constant = 0x6DD90A9D if content[:1] == RAW else 0xFFFFFFFF
        return content + (crc32(content) ^ constant).to_bytes(4, "little")

    def _altered(self, value: Any) -> Any:
        """Return a copy with random errors."""
        random = self._random
        if random.random() < 0.02:
            return random.choice(ODD)
        if isinstance(value, dict):
            kept = {key: self._altered(item) for key, item in value.items() if random.random() > 0.02}
            return kept | ({"SS": ["a"]} if random.random() < 0.02 else {})
        if isinstance(value, list):
            return [self._altered(item) for item in value if random.random() > 0.02]
        if isinstance(value, bytes) and random.random() < 0.1:
            return b64encode(value).decode()
        return value


class Answering:
    """A client that always gives the same answer."""

    def __init__(self, reply: Any) -> None:
        self._reply = reply
        self.refuses = False

    async def call(self, operation: str, request: Any) -> Any:
        if self.refuses and operation in ("PutItem", "TransactWriteItems"):
            raise ServiceError(CONDITION_FAILED, 400, self._reply)
        return self._reply


class Unexpected(Exception):
    """Raised where the library must not raise, or does something that it must not do."""


CAP = 16 * 1024 * 1024

_expand = lz4.block.decompress


def _guarded(block: bytes) -> Any:
    """Expand a block. Fail if the library expands a block that claims more than the cap."""
    if int.from_bytes(block[:4], "little") > CAP:
        raise Unexpected("the library expands a block beyond the cap")
    return _expand(block)


async def _once(call: Callable[[], Awaitable[Any]], *_: Any) -> Any:
    """Send without retries, because the answer would be the same."""
    try:
        return await call()
    except TransportError as error:
        raise DeadlinePassed(ambiguous=True, last=error) from None


def campaign(inputs: int, seed: int) -> Layer:
    """Pass `inputs` inputs to the decoders, each decoder with the same probability."""
    begun = perf_counter()
    sending, logging = "eventsrc.stores.dynamodb.table.send", "eventsrc.repository.snapshots.log"
    expanding = "lz4.block.decompress"
    with patch(sending, _once), patch(logging), patch(expanding, _guarded):
        violations, decoded = asyncio.run(_campaign(inputs, seed))
    return Layer("fuzz", inputs, inputs - decoded, decoded, 0, 0, perf_counter() - begun, seed, violations)


async def _campaign(inputs: int, seed: int) -> tuple[list[str], int]:
    random = Random(seed)
    fuzzer = Fuzzer(random)
    decoders = (fuzzer.payload, fuzzer.run, fuzzer.snapshot, fuzzer.answer, fuzzer.parsed, fuzzer.row)
    violations: list[str] = []
    decoded = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(inputs):
        decoder = random.choice(decoders)
        report(number, inputs)
        try:
            decoded += await decoder() is not None
        except EventsrcError:
            pass
        except Exception as error:  # any other exception is a finding
            cause = error.__cause__ or error
            violations.append(
                f"{decoder.__name__}, input {number} of seed {seed}: {cause!r} for {fuzzer.input[:200]!r}"
            )
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if grown > MEMORY:
        violations.append(f"the process grew by {grown:,} KB")
    return violations, decoded
