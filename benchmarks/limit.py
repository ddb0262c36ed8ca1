"""Compare the CPU of a request in this process: eventsrc, and bare calls that send and receive the same bytes.

The lower limit for a client on aiohttp is an unsigned POST over aiohttp, which DynamoDB Local accepts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
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
from eventsrc.testing.contract.samples import make_commit

from .measure import Cost, Figure, cost, median_of, median_ratio

ROUNDS = 7
SAVES = 200
LOADS = 20
LONG = 1_000  # commits of the long stream
NONE = SnapshotPolicy(enabled=False)


def figures() -> list[Figure]:
    rounds = asyncio.run(_rounds())
    ratios = [
        ("save", "put by the SDK", 0.35),
        ("save", "put by an unsigned POST", 1.6),
        ("save", "put by aiodynamo", None),
        ("warm execute", "put by the SDK", None),
        ("warm execute", "put by an unsigned POST", None),
        ("load of 1,000", "query of 1,000 by the SDK, nothing decoded", 0.4),
        ("load of 1,000", "query of 1,000 by an unsigned POST, nothing decoded", None),
        ("load of 1,000", "query of 1,000 by aiodynamo", None),
        ("load of 10", "query of 10 by an unsigned POST, nothing decoded", None),
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
            account = Account.open(f"long-{length}", owner="ann")
            await bench._accounts.save(account)
            for amount in range(1, length):
                account.deposit(amount)
                await bench._accounts.save(account)
        return bench

    async def round(self, number: int) -> dict[str, Cost]:
        """Measure all calls, one kind after the other."""
        account = Account.open(f"save-{number}", owner="ann")
        await self._accounts.save(account)
        warm = Account.open(f"warm-{number}", owner="ann")
        await self._accounts.save(warm)

        async def save() -> None:
            account.deposit(1)
            await self._accounts.save(account)

        async def execute() -> None:
            await self._accounts.execute(warm.id, Account.deposit, 1)

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
                f"query of {length:,} by an unsigned POST, nothing decoded": (self._query_by_post(length), times),
                f"query of {length:,} by aiodynamo": (self._query_by_aiodynamo(length), times),
                f"query of {length:,} by the SDK, nothing decoded": (self._query_by_sdk(length), times),
            }
        return {name: await cost(call, times) for name, (call, times) in calls.items()}

    def _items(self, stream: str) -> Any:
        """Return items like those that `save` sends, as large as a commit of a deposit."""
        commits = (make_commit(stream, version) for version in range(1, SAVES + 1))
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
        async def load() -> None:
            assert (await self._accounts.load(f"long-{length}")).version == length

        return load

    def _query_request(self, length: int) -> dict[str, Any]:
        return {
            "TableName": self._store.table.name,
            "KeyConditionExpression": "PK = :p",
            "ExpressionAttributeValues": {":p": {"S": f"account-long-{length}"}},
            "ConsistentRead": True,
        }

    def _query_by_sdk(self, length: int) -> Callable[[], Awaitable[Any]]:
        async def query() -> None:
            assert (await self._sdk.query(**self._query_request(length)))["Count"] == length

        return query

    def _query_by_post(self, length: int) -> Callable[[], Awaitable[Any]]:
        body = msgspec.json.encode(self._query_request(length))
        return lambda: self._post("Query", body)

    def _query_by_aiodynamo(self, length: int) -> Callable[[], Awaitable[Any]]:
        condition = HashKey("PK", f"account-long-{length}") & RangeKey("SK").gte(1)

        async def query() -> None:
            found = self._aiodynamo.query(self._store.table.name, condition, consistent_read=True)
            assert len([item async for item in found]) == length

        return query

    async def _post(self, operation: str, body: bytes) -> None:
        headers = {
            "Content-Type": "application/x-amz-json-1.0",
            "X-Amz-Target": f"DynamoDB_20120810.{operation}",
            "Authorization": f"AWS4-HMAC-SHA256 Credential={CREDENTIALS['aws_access_key_id']}/20260101/"
            f"{CREDENTIALS['region_name']}/dynamodb/aws4_request, SignedHeaders=host, Signature=none",
        }
        async with self._http.post(self._endpoint, data=body, headers=headers) as response:
            await response.read()
            assert response.status == 200


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    """Return the same item with plain values, as aiodynamo expects it."""
    plain: dict[str, Any] = {}
    for name, typed in item.items():
        [(kind, value)] = typed.items()
        plain[name] = int(value) if kind == "N" else [each["S"] for each in value] if kind == "L" else value
    return plain
