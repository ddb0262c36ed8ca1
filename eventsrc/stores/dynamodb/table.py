"""A table whose keys are texts, and the requests to it that checkpoints and read models need."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

import msgspec

from ...errors import StoreClosed, StoreRejected
from ...usage import Usage
from .creation import create_table
from .wire.client import Reply, ServiceError
from .wire.connection import Requests
from .wire.outcomes import CONDITION_FAILED, DeadlinePassed, rejected
from .wire.responses import (
    Answer,
    Batch,
    ConditionFailed,
    GetResponse,
    Item,
    QueryResponse,
    Transacted,
)
from .wire.sdk import SDKClient

T = TypeVar("T", bound=Answer | Transacted)

_READ, _WRITTEN = 100, 25  # items that go into one batch


class Table:
    """Reads are strongly consistent. Calls raise StoreClosed while it is not open."""

    def __init__(self, name: str, partition_key: str, sort_key: str, requests: Requests) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{3,255}|arn:[^ ]+", name):
            raise ValueError(f"{name!r} is no table name: 3 to 255 of A-Z, a-z, 0-9, '_', '-' and '.', or an ARN")
        self.name, self._pk, self._sk, self._requests = name, partition_key, sort_key, requests
        self.usage = Usage()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls, self._idle = 0, asyncio.Event()

    async def open(self) -> None:
        if self._requests.client is not None:
            raise StoreClosed("DynamoDBCheckpoints is open already; open it once, and share it")
        await self._requests.open()
        self._loop = asyncio.get_running_loop()

    async def aclose(self) -> None:
        """Refuse new calls, let those in flight end, release everything."""
        self._loop = None
        try:
            while self._calls:
                self._idle.clear()
                await self._idle.wait()
        finally:
            await self._requests.aclose()

    async def create(self, **options: bool) -> bool:
        """False if it was there already. Raises StoreRejected if its keys are others."""
        with self._call(Usage(calls=1)):
            return await create_table(
                SDKClient(self._requests.sdk), self.name, {self._pk: "S", self._sk: "S"}, **options
            )

    def key(self, partition: str, sort: str) -> dict[str, Any]:
        return {self._pk: {"S": partition}, self._sk: {"S": sort}}

    def sort_of(self, item: Item) -> str:
        return text(item, self._sk)

    async def send(self, operation: str, request: dict[str, Any], kind: type[T], used: Usage) -> T:
        """One request, sent until its outcome is definite. Raises ServiceError for a refusal, and StoreError."""
        with self._call(used):
            try:
                return await self._requests.send(operation, request, kind, used)
            except DeadlinePassed as given_up:
                # Something may have been done. Whoever reads the position again learns whether it was, and what comes
                # later still does nothing where the position has moved on.
                raise given_up.definite() from None

    async def ask(self, operation: str, request: dict[str, Any], kind: type[T]) -> T:
        """As `send`; its errors are StoreError."""
        try:
            return await self.send(operation, request, kind, Usage(calls=1))
        except ServiceError as error:
            raise rejected(error, request.get("TableName", self.name)) from None

    async def get(self, table: str, keys: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Sequence[Item]:
        """Attributes of those of these items that are there, in no order. The keys are all different."""
        aliases = {f"#{number}": name for number, name in enumerate(names)}
        items: list[Item] = []
        for start in range(0, len(keys), _READ):
            asked = {
                "Keys": keys[start : start + _READ],
                "ConsistentRead": True,
                "ProjectionExpression": ", ".join(aliases),
                "ExpressionAttributeNames": aliases,
            }
            for answer in await self._batch("BatchGetItem", {table: asked}):
                items += [item for found in answer.Responses.values() for item in found]
        return items

    @contextmanager
    def _call(self, used: Usage) -> Iterator[None]:
        if self._loop is not asyncio.get_running_loop():
            raise StoreClosed(
                "DynamoDBCheckpoints is not open (here); use `async with checkpoints:` around all that uses it"
            )
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            self.usage.add(used)
            if not self._calls:
                self._idle.set()

    async def _batch(self, operation: str, items: dict[str, Any]) -> list[Batch]:
        request = {"RequestItems": items, "ReturnConsumedCapacity": "TOTAL"}
        used = Usage(calls=1)
        with self._call(used):
            try:
                return await self._requests.batch(operation, request, used)
            except DeadlinePassed as given_up:
                raise given_up.definite() from None
            except ServiceError as error:
                raise rejected(error, *items) from None

    async def query(self, partition: str, prefix: str = "") -> AsyncGenerator[Sequence[Item]]:
        """A partition's items, by sort key, a page at a time."""
        request: dict[str, Any] = {
            "TableName": self.name,
            "KeyConditionExpression": "#pk = :pk",
            "ExpressionAttributeNames": {"#pk": self._pk},
            "ExpressionAttributeValues": {":pk": {"S": partition}},
            "ConsistentRead": True,
            "ReturnConsumedCapacity": "TOTAL",
        }
        if prefix:
            request["KeyConditionExpression"] += " AND begins_with(#sk, :prefix)"
            request["ExpressionAttributeNames"]["#sk"] = self._sk
            request["ExpressionAttributeValues"][":prefix"] = {"S": prefix}
        while True:
            page = await self.ask("Query", request, QueryResponse[Item])
            if page.Items:
                yield page.Items
            if page.LastEvaluatedKey is None:
                return
            request["ExclusiveStartKey"] = page.LastEvaluatedKey

    async def all(self, partition: str, prefix: str = "") -> list[Item]:
        async with aclosing(self.query(partition, prefix)) as pages:
            return [item async for page in pages for item in page]

    async def update(
        self, update: Mapping[str, Any], used: Usage | None = None, *, quoting: bool = False
    ) -> Item | None:
        """None if it was done; what stood there if the condition failed: {} where the endpoint does not tell. An error
        quotes the service if a user has written this.
        """
        fixed = {"ReturnValuesOnConditionCheckFailure": "ALL_OLD", "ReturnConsumedCapacity": "TOTAL"}
        try:
            await self.send("UpdateItem", {"TableName": self.name, **update, **fixed}, Answer, used or Usage(calls=1))
        except ServiceError as error:
            if error.code != CONDITION_FAILED:
                raise rejected(error, update.get("TableName", self.name), quoting=quoting) from None
            return item_of(error.reply) or {}
        return None

    async def read(self, partition: str, sort: str) -> Item | None:
        request = {"TableName": self.name, "Key": self.key(partition, sort), "ConsistentRead": True}
        return (await self.ask("GetItem", {**request, "ReturnConsumedCapacity": "TOTAL"}, GetResponse[Item])).Item

    async def put(self, item: Item) -> None:
        await self.ask("PutItem", {"TableName": self.name, "Item": item, "ReturnConsumedCapacity": "TOTAL"}, Answer)

    async def delete(self, key: dict[str, Any], *, only_if: tuple[str, str] | None = None) -> None:
        """With `only_if`, an attribute and a text, what is otherwise stays."""
        request = {"TableName": self.name, "Key": key, "ReturnConsumedCapacity": "TOTAL"}
        if only_if is not None:
            request["ConditionExpression"] = "#name = :value"
            request["ExpressionAttributeNames"] = {"#name": only_if[0]}
            request["ExpressionAttributeValues"] = {":value": {"S": only_if[1]}}
        try:
            await self.send("DeleteItem", request, Answer, Usage(calls=1))
        except ServiceError as error:
            if error.code != CONDITION_FAILED:
                raise rejected(error, self.name) from None

    async def clear(self, partition: str) -> None:
        """Delete all that is in it."""
        async with aclosing(self.query(partition)) as pages:
            async for page in pages:
                keys = [{name: item[name] for name in (self._pk, self._sk)} for item in page]
                deletes = [{"DeleteRequest": {"Key": key}} for key in keys]
                for start in range(0, len(deletes), _WRITTEN):
                    await self._batch("BatchWriteItem", {self.name: deletes[start : start + _WRITTEN]})


def item_of(reply: Reply | None) -> Item | None:
    """What stood there when a condition failed, if the endpoint tells."""
    try:
        return reply.read(ConditionFailed[Item]).Item if reply is not None else None
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def text(item: Item, name: str) -> str:
    """Raises StoreRejected if it has no such text."""
    return _attribute(item, name, "S")


def number(item: Item, name: str) -> int:
    """Raises StoreRejected if it has no such number."""
    try:
        return int(_attribute(item, name, "N"))
    except ValueError:
        pass
    raise _foreign(name)


def _attribute(item: Item, name: str, kind: str) -> str:
    value = item.get(name, {}).get(kind)
    if not isinstance(value, str):
        raise _foreign(name)
    return value


def _foreign(name: str) -> StoreRejected:
    return StoreRejected("ForeignItem", f"an item has no {name} as this library writes it; who else writes there?")
