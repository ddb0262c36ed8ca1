"""Compare the CPU of a request in this process: eventsrc, and bare calls by hand that have the same effect or answer.

A bare put sends the same item. A bare load asks for the payloads only, decodes their events with msgspec, and applies
them; it checks nothing. The lower limit for a client on aiohttp is an unsigned POST over aiohttp, which DynamoDB Local
accepts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from itertools import cycle
from typing import Any

import aiodynamo.client
import aiodynamo.credentials
import aiodynamo.http.aiohttp
import aiohttp
import msgspec
from aiodynamo.errors import ConditionalCheckFailed
from aiodynamo.expressions import F, HashKey, RangeKey
from support.bank import Account
from support.tables import CREDENTIALS, fresh_name, session, store_on
from yarl import URL

from eventsrc import DynamoDBStore, Repository, SnapshotPolicy
from eventsrc.local import dynamodb_local
from eventsrc.stores.dynamodb.items import PAYLOAD
from eventsrc.testing.contract.samples import make_commit

from . import bare
from .measure import Cost, Figure, cost, median_of, median_ratio

ROUNDS = 7
SAVES = 200
LOADS = 20
LONG = 1_000  # commits of the long streams
TURNS = 4  # streams that take turns, for each call
NONE = SnapshotPolicy(enabled=False)


def figures() -> list[Figure]:
    rounds = asyncio.run(_rounds())
    ratios = [
        ("save", "put by the SDK", 0.35),
        ("save", "put by an unsigned POST", 1.6),
        ("save", "put by aiodynamo", None),
        ("warm execute", "put by the SDK", None),
        ("warm execute", "put by an unsigned POST", None),
        ("load of 1,000", "bare load of 1,000 by the SDK", 0.4),
        ("load of 1,000", "bare load of 1,000 by an unsigned POST", None),
        ("load of 1,000", "bare load of 1,000 by aiodynamo", None),
        ("load of 10", "bare load of 10 by an unsigned POST", None),
    ]
    return [
        *(Figure(f"CPU: {a} ÷ {b}", median_ratio(rounds, a, b), goal, at_most=True) for a, b, goal in ratios),
        *(Figure(f"ms of CPU: {name}", median_of(each[name].cpu for each in rounds) * 1e3) for name in rounds[0]),
        *(Figure(f"ms: {name}", median_of(each[name].wall for each in rounds) * 1e3) for name in rounds[0]),
    ]


async def _rounds() -> list[dict[str, Cost]]:
    async with dynamodb_local() as local, AsyncExitStack() as stack:
        bench = await Bench.on(local.endpoint_url, stack)
        await bench.round(0)  # warm-up
        return [await bench.round(number) for number in range(1, ROUNDS + 1)]


class _Binary(msgspec.Struct, gc=False):
    B: bytes


class _Item(msgspec.Struct, gc=False):
    payload: _Binary = msgspec.field(name=PAYLOAD)


class _Page(msgspec.Struct, gc=False):
    Items: list[_Item]


_decode_page = msgspec.json.Decoder(_Page).decode


class Bench:
    """All clients of one table, and their calls."""

    def __init__(self, store: DynamoDBStore, sdk: Any, http: aiohttp.ClientSession, endpoint: str) -> None:
        self._store, self._sdk, self._http, self._endpoint = store, sdk, http, f"{endpoint}/"
        self._accounts = Repository(Account, store, snapshots=NONE)
        credentials = aiodynamo.credentials.StaticCredentials(
            aiodynamo.credentials.Key(CREDENTIALS["aws_access_key_id"], CREDENTIALS["aws_secret_access_key"])
        )
        self._aiodynamo = aiodynamo.client.Client(
            aiodynamo.http.aiohttp.AIOHTTP(http), credentials, CREDENTIALS["region_name"], URL(endpoint)
        )

    @classmethod
    async def on(cls, endpoint: str, stack: AsyncExitStack) -> Bench:
        sdk = await stack.enter_async_context(session().client("dynamodb", endpoint_url=endpoint))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        store = await stack.enter_async_context(store_on(endpoint, fresh_name()))
        await store.create_table()
        bench = cls(store, sdk, http, endpoint)
        for length in (10, LONG):
            for id in _long(length):
                account = Account.open(id, owner="ann")
                await bench._accounts.save(account)
                for amount in range(1, length):
                    account.deposit(amount)
                    await bench._accounts.save(account)
        return bench

    async def round(self, number: int) -> dict[str, Cost]:
        """Measure all calls, one kind after the other."""
        held = [Account.open(f"save-{number}-{turn}", owner="ann") for turn in range(TURNS)]
        warm = [Account.open(f"warm-{number}-{turn}", owner="ann") for turn in range(TURNS)]
        for account in (*held, *warm):
            await self._accounts.save(account)
        saved, executed = cycle(held), cycle(warm)

        async def save() -> None:
            account = next(saved)
            account.deposit(1)
            await self._accounts.save(account)

        async def execute() -> None:
            await self._accounts.execute(next(executed).id, Account.deposit, 1)

        calls: dict[str, tuple[Callable[[], Awaitable[Any]], int]] = {
            "put by the SDK": (self._put_by_sdk(f"sdk-{number}"), SAVES),
            "save": (save, SAVES),
            "put by an unsigned POST": (self._put_by_post(f"post-{number}"), SAVES),
            "warm execute": (execute, SAVES),
            "put by aiodynamo": (self._put_by_aiodynamo(f"aiodynamo-{number}"), SAVES),
        }
        for length, times in ((10, SAVES), (LONG, LOADS)):
            calls |= {
                f"load of {length:,}": (self._load(length), times),
                f"bare load of {length:,} by an unsigned POST": (self._load_by_post(length), times),
                f"bare load of {length:,} by aiodynamo": (self._load_by_aiodynamo(length), times),
                f"bare load of {length:,} by the SDK": (self._load_by_sdk(length), times),
            }
        return {name: await cost(call, times) for name, (call, times) in calls.items()}

    def _items(self, stream: str) -> Any:
        """Return items like those that `save` sends, as large as a commit of a deposit. The streams take turns."""
        turns = [(number % TURNS, number // TURNS + 1) for number in range(SAVES)]
        commits = (make_commit(f"{stream}-{turn}", version) for turn, version in turns)
        return iter([self._store.items.from_commit(commit) for commit in commits])

    def _put_request(self, item: dict[str, Any]) -> dict[str, Any]:
        return {
            "TableName": self._store.table.name,
            "Item": item,
            "ConditionExpression": "attribute_not_exists(PK)",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            "ReturnConsumedCapacity": "TOTAL",
        }

    def _put_by_sdk(self, stream: str) -> Callable[[], Awaitable[Any]]:
        items = self._items(stream)
        return lambda: self._sdk.put_item(**self._put_request(next(items)))

    def _put_by_post(self, stream: str) -> Callable[[], Awaitable[Any]]:
        bodies = iter([msgspec.json.encode(self._put_request(item)) for item in self._items(stream)])
        return lambda: self._post("PutItem", next(bodies))

    def _put_by_aiodynamo(self, stream: str) -> Callable[[], Awaitable[Any]]:
        items = iter([_plain(item) for item in self._items(stream)])
        condition = F("PK").does_not_exist()

        async def put() -> None:
            try:
                await self._aiodynamo.put_item(self._store.table.name, next(items), condition=condition)
            except ConditionalCheckFailed:
                raise AssertionError("nothing else writes here") from None

        return put

    def _load(self, length: int) -> Callable[[], Awaitable[Any]]:
        ids = cycle(_long(length))

        async def load() -> None:
            assert (await self._accounts.load(next(ids))).version == length

        return load

    def _query_request(self, id: str) -> dict[str, Any]:
        return {
            "TableName": self._store.table.name,
            "KeyConditionExpression": "PK = :p",
            "ExpressionAttributeValues": {":p": {"S": f"account-{id}"}},
            "ProjectionExpression": PAYLOAD,
            "ConsistentRead": True,
        }

    def _load_by_sdk(self, length: int) -> Callable[[], Awaitable[Any]]:
        requests = cycle([(id, self._query_request(id)) for id in _long(length)])

        async def load() -> None:
            id, request = next(requests)
            items = (await self._sdk.query(**request))["Items"]
            _fold(id, (item[PAYLOAD]["B"] for item in items), length)

        return load

    def _load_by_post(self, length: int) -> Callable[[], Awaitable[Any]]:
        bodies = cycle([(id, msgspec.json.encode(self._query_request(id))) for id in _long(length)])

        async def load() -> None:
            id, body = next(bodies)
            page = _decode_page(await self._post("Query", body))
            _fold(id, (item.payload.B for item in page.Items), length)

        return load

    def _load_by_aiodynamo(self, length: int) -> Callable[[], Awaitable[Any]]:
        conditions = cycle([(id, HashKey("PK", f"account-{id}") & RangeKey("SK").gte(1)) for id in _long(length)])

        async def load() -> None:
            id, condition = next(conditions)
            found = self._aiodynamo.query(
                self._store.table.name, condition, projection=F(PAYLOAD), consistent_read=True
            )
            _fold(id, [item[PAYLOAD] async for item in found], length)

        return load

    async def _post(self, operation: str, body: bytes) -> bytes:
        headers = {
            "Content-Type": "application/x-amz-json-1.0",
            "X-Amz-Target": f"DynamoDB_20120810.{operation}",
            "Authorization": f"AWS4-HMAC-SHA256 Credential={CREDENTIALS['aws_access_key_id']}/20260101/"
            f"{CREDENTIALS['region_name']}/dynamodb/aws4_request, SignedHeaders=host, Signature=none",
        }
        async with self._http.post(self._endpoint, data=body, headers=headers) as response:
            assert response.status == 200
            return await response.read()


def _long(length: int) -> list[str]:
    return [f"long-{length}-{turn}" for turn in range(TURNS)]


def _fold(id: str, payloads: Iterable[bytes], length: int) -> None:
    account, count = Account(id=id), 0
    for payload in payloads:
        for event in bare.decode(payload[bare.BODY]):
            bare.APPLY[type(event)](account, event)
        count += 1
    assert (count, account.balance) == (length, length * (length - 1) // 2)


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    """Return the same item with plain values, as aiodynamo expects it."""
    plain: dict[str, Any] = {}
    for name, typed in item.items():
        [(kind, value)] = typed.items()
        plain[name] = int(value) if kind == "N" else [each["S"] for each in value] if kind == "L" else value
    return plain
