"""A DynamoDB table and the requests to it."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple, TypeVar
from uuid import uuid4

import msgspec

from ...errors import StoreError, StoreRejected, StoreUnavailable
from ...usage import Usage
from .creation import create_table, describe_table
from .description import TableDescription, TableSettings
from .wire.attributes import text_of
from .wire.client import Reply, ServiceError, TransportError
from .wire.connection import Connection
from .wire.outcomes import ConditionNotMet, DeadlinePassed, to_store_rejected
from .wire.responses import (
    BatchResponse,
    Cancelled,
    ConditionFailed,
    GetResponse,
    Item,
    Metered,
    QueryResponse,
    Response,
    TransactResponse,
    decode,
)
from .wire.sending import count_tries, send

T = TypeVar("T", bound=Metered)

_MAX_BATCH_READ, _MAX_BATCH_WRITE = 100, 25  # items of one batch


class Refusal(NamedTuple):
    """A write whose condition was not met. The last try wrote nothing."""

    item: Item  # the stored item; {} if the endpoint does not return it
    repeated: bool  # the request was sent more than once, so an earlier try may have written
    action: int = 0  # index of the first action of a transaction whose condition was not met


class Table:
    """A table and the connection to it, which belong to one owner: a store or a set of checkpoints.

    - `guard(used)` returns a context manager. It raises StoreClosed if the owner is not open, keeps it open until the
      block ends, and then adds `used` to the owner's usage.
    - `send` is for an owner that guards and counts its calls itself. Each other request counts as one call.
    - Reads are strongly consistent.
    - `key`, `query` and `clear` need a table whose keys are texts.
    - Requests raise StoreError.
    """

    def __init__(
        self,
        name: str,
        *,
        partition_key: str,
        sort_key: str,
        sort_type: Literal["S", "N"],
        connection: Connection,
        guard: Callable[[Usage], AbstractContextManager[None]],
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{3,255}|arn:[^ ]+", name):
            raise ValueError(f"{name!r} is not a table name; use 3 to 255 of A-Z, a-z, 0-9, '_', '-', '.', or an ARN")
        self.name, self.connection, self.guard = name, connection, guard
        self.partition_key, self._sort_key, self._sort_type = partition_key, sort_key, sort_type
        self.keys = {partition_key: "S", sort_key: str(sort_type)}

    async def create(self, **options: Any) -> bool:
        """Create the table; False if it exists already. `options` are those of TableSettings.

        Raises StoreRejected if it has different keys.
        """
        with self.guard(Usage(calls=1)):
            return await create_table(self.connection.administer(), TableSettings(self.name, self.keys, **options))

    async def describe(self) -> TableDescription:
        """Return the description of the table. Counts and sizes are those of some hours ago."""
        with self.guard(Usage(calls=1)):
            try:
                return await describe_table(self.connection.administer(), self.name)
            except ServiceError as error:
                raise to_store_rejected(error, self.name) from None
            except TransportError as error:
                raise StoreUnavailable(f"{error}; try again later") from None

    async def send(
        self,
        operation: str,
        request: Mapping[str, Any],
        kind: type[T],
        used: Usage,
        *,
        unknown: Callable[[str], StoreError] | None = None,
        quoting: bool = False,
    ) -> T:
        """Send a request until its outcome is definite.

        - `unknown` is given a reason and returns the error to raise if the request may have written something. Without
          it, that error is the same as if nothing was written: for reads, and for writes that may be done twice.
        - `quoting` adds the service's message to the error, for requests that a user has written.

        Raises:
            ConditionNotMet: a condition of the request was not met.
            StoreError: any other failure.
        """
        connection = self.connection
        assert connection.client is not None
        call = count_tries(connection.client, operation, request, kind, used)
        try:
            return await send(call, connection.limits)
        except (DeadlinePassed, ServiceError) as error:
            raise _to_store_error(error, request, unknown, quoting) from None

    def key(self, partition: str, sort: str) -> Item:
        return {self.partition_key: {"S": partition}, self._sort_key: {self._sort_type: sort}}

    def sort_key_of(self, item: Item) -> str:
        return text_of(item, self._sort_key)

    async def get(self, key: Item) -> Item | None:
        request = {"TableName": self.name, "Key": key, "ConsistentRead": True, "ReturnConsumedCapacity": "TOTAL"}
        item = (await self._guard_and_send("GetItem", request, GetResponse[Item])).Item
        if item is not None and not item.items() >= key.items():
            raise mixed_up(text_of(key, self.partition_key))
        return item

    async def get_all(self, table: str, keys: Sequence[Item], names: Sequence[str]) -> Sequence[Item]:
        """Return the attributes `names` of the items that exist in `table`, in any order. The keys must differ."""
        aliases = {f"#{number}": name for number, name in enumerate(names)}
        items: list[Item] = []
        for start in range(0, len(keys), _MAX_BATCH_READ):
            request = {
                "Keys": keys[start : start + _MAX_BATCH_READ],
                "ConsistentRead": True,
                "ProjectionExpression": ", ".join(aliases),
                "ExpressionAttributeNames": aliases,
            }
            for response in await self._send_batch("BatchGetItem", {table: request}):
                items += [item for found in response.Responses.values() for item in found]
        return items

    async def query(
        self, partition: str, prefix: str = "", limit: int | None = None, after: Item | None = None
    ) -> AsyncGenerator[Sequence[Item]]:
        """Iterate over a partition's items whose sort keys start with `prefix`, in their order, a page at a time.

        `limit` is the number of items of a page, and `after` a key: only the items that follow it are returned.
        """
        request: dict[str, Any] = {
            "TableName": self.name,
            "KeyConditionExpression": "#pk = :pk",
            "ExpressionAttributeNames": {"#pk": self.partition_key},
            "ExpressionAttributeValues": {":pk": {"S": partition}},
            "ConsistentRead": True,
            "ReturnConsumedCapacity": "TOTAL",
        }
        if limit is not None:
            request["Limit"] = limit
        if after is not None:
            request["ExclusiveStartKey"] = after
        if prefix:
            request["KeyConditionExpression"] += " AND begins_with(#sk, :prefix)"
            request["ExpressionAttributeNames"]["#sk"] = self._sort_key
            request["ExpressionAttributeValues"][":prefix"] = {"S": prefix}
        while True:
            page = await self._guard_and_send("Query", request, QueryResponse[Item])
            if any(item.get(self.partition_key) != {"S": partition} for item in page.Items):
                raise mixed_up(partition)
            if page.Items:
                yield page.Items
            if page.LastEvaluatedKey is None:
                return
            request["ExclusiveStartKey"] = page.LastEvaluatedKey

    async def scan(self, request: Mapping[str, Any], kind: type[T]) -> T:
        """Return a page of a scan."""
        return await self._guard_and_send("Scan", request, kind)

    async def query_all(self, partition: str, prefix: str = "") -> list[Item]:
        async with aclosing(self.query(partition, prefix)) as pages:
            return [item async for page in pages for item in page]

    async def put(self, item: Item, *, only_if_new: bool = False) -> None:
        """Put an item. With `only_if_new`, leave an item that is stored under its key."""
        request: dict[str, Any] = {"TableName": self.name, "Item": item, "ReturnConsumedCapacity": "TOTAL"}
        if only_if_new:
            request["ConditionExpression"] = "attribute_not_exists(#pk)"
            request["ExpressionAttributeNames"] = {"#pk": self.partition_key}
        try:
            await self._guard_and_send("PutItem", request, Response)
        except ConditionNotMet:
            return

    async def clock(self, key: Item) -> int:
        """Return the time in µs since the epoch by the service's clock, rounded down to seconds.

        It is the time of a response to a GetItem of `key`, which need not exist. Raises StoreRejected if responses do
        not have their time.
        """
        connection, used = self.connection, Usage(calls=1)
        request = {"TableName": self.name, "Key": key, "ReturnConsumedCapacity": "TOTAL"}
        assert connection.client is not None
        client = connection.client

        async def once() -> Reply:
            used.requests += 1
            reply = await client.call("GetItem", request)
            used.read_units += decode(reply, Response).units
            return reply

        with self.guard(used):
            try:
                reply = await send(once, connection.limits)
            except (DeadlinePassed, ServiceError) as error:
                raise _to_store_error(error, request) from None
        try:
            return int(parsedate_to_datetime(reply.date).replace(tzinfo=UTC).timestamp()) * 1_000_000
        except (ValueError, OverflowError):
            raise StoreRejected(
                "CLOCK", "the endpoint's responses have no Date header; use one that sends it"
            ) from None

    async def update(self, update: Mapping[str, Any], *, quoting: bool = False) -> Refusal | None:
        """Update an item of this table, or of the table that `update` names. Return None if it was updated."""
        fixed = {"ReturnValuesOnConditionCheckFailure": "ALL_OLD", "ReturnConsumedCapacity": "TOTAL"}
        used = Usage(calls=1)
        with self.guard(used):
            try:
                request = {"TableName": self.name, **update, **fixed}
                await self.send("UpdateItem", request, Response, used, quoting=quoting)
            except ConditionNotMet as failed:
                return Refusal(_read_stored(failed.reply) or {}, used.requests > 1)
        return None

    async def transact(self, actions: Sequence[Mapping[str, Any]]) -> Refusal | None:
        """Carry out all actions of a TransactWriteItems, or none. Return None if they were carried out."""
        request = {
            "TransactItems": actions,
            # Random, not derived from the actions: after `forget` the same actions must be carried out again.
            "ClientRequestToken": str(uuid4()),
            "ReturnConsumedCapacity": "TOTAL",
        }
        used = Usage(calls=1)
        with self.guard(used):
            try:
                await self.send("TransactWriteItems", request, TransactResponse, used, quoting=True)
            except ConditionNotMet as failed:
                if (refusal := _read_cancelled(failed.reply, used.requests > 1)) is not None:
                    return refusal
                raise StoreRejected(failed.code, failed.advice) from None
        return None

    async def delete(self, key: Item, *, only_if: tuple[str, str] | None = None) -> None:
        """Delete an item. With `only_if`, an attribute and a text, delete it only if the attribute has that text."""
        request = {"TableName": self.name, "Key": key, "ReturnConsumedCapacity": "TOTAL"}
        if only_if is not None:
            request["ConditionExpression"] = "#name = :value"
            request["ExpressionAttributeNames"] = {"#name": only_if[0]}
            request["ExpressionAttributeValues"] = {":value": {"S": only_if[1]}}
        try:
            await self._guard_and_send("DeleteItem", request, Response)
        except ConditionNotMet:
            return

    async def clear(self, partition: str) -> None:
        """Delete all items of a partition."""
        async with aclosing(self.query(partition)) as pages:
            async for page in pages:
                keys = [{name: item[name] for name in (self.partition_key, self._sort_key)} for item in page]
                await self.delete_all(self.name, keys)

    async def delete_all(self, table: str, keys: Sequence[Item]) -> None:
        """Delete the items with these keys from `table`. The keys must differ."""
        deletes = [{"DeleteRequest": {"Key": key}} for key in keys]
        for start in range(0, len(deletes), _MAX_BATCH_WRITE):
            await self._send_batch("BatchWriteItem", {table: deletes[start : start + _MAX_BATCH_WRITE]})

    async def _guard_and_send(self, operation: str, request: Mapping[str, Any], kind: type[T]) -> T:
        used = Usage(calls=1)
        with self.guard(used):
            return await self.send(operation, request, kind, used)

    async def _send_batch(self, operation: str, items: Mapping[str, Any]) -> Sequence[BatchResponse]:
        """Send a batch until all of it is processed: the items that the service leaves out are sent again."""
        connection, used = self.connection, Usage(calls=1)
        request = {"RequestItems": items, "ReturnConsumedCapacity": "TOTAL"}
        responses: list[BatchResponse] = []

        async def once() -> None:
            responses.append(response := await call())
            connection.limits.earn_retry()  # also if a part is left
            if left := response.UnprocessedKeys or response.UnprocessedItems:
                request["RequestItems"] = left
                raise ServiceError("ThrottlingException", 400)  # the service leaves items out when it throttles

        with self.guard(used):
            assert connection.client is not None
            call = count_tries(connection.client, operation, request, BatchResponse, used)
            try:
                await send(once, connection.limits)
            except (DeadlinePassed, ServiceError) as error:
                raise _to_store_error(error, {"RequestItems": items}) from None
        return responses


def _to_store_error(
    error: DeadlinePassed | ServiceError,
    request: Mapping[str, Any],
    unknown: Callable[[str], StoreError] | None = None,
    quoting: bool = False,
) -> StoreError:
    """Return the library's error for a request that failed."""
    if isinstance(error, ServiceError):
        return to_store_rejected(error, *_find_tables(request), quoting=quoting)
    if unknown is not None and error.ambiguous:
        return unknown(error.reason)
    return error.to_store_error()


def mixed_up(partition: str) -> StoreUnavailable:
    """Return the error for a response with items of other keys than those of the request."""
    return StoreUnavailable(
        f"the response to a read of {partition} has items of other keys; find what forwards or caches the requests "
        "between this process and DynamoDB"
    )


def _find_tables(request: Mapping[str, Any]) -> list[str]:
    if "TransactItems" in request:
        actions = [content for action in request["TransactItems"] for content in action.values()]
        return [each["TableName"] for each in actions if "TableName" in each]
    return [request["TableName"]] if "TableName" in request else list(request["RequestItems"])


def _read_stored(reply: Reply | None) -> Item | None:
    """Return the stored item because of which a condition failed; None if the endpoint does not return it."""
    try:
        return reply.read(ConditionFailed[Item]).Item if reply is not None else None
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _read_cancelled(reply: Reply | None, repeated: bool) -> Refusal | None:
    """Return the first action of a transaction whose condition failed; None if the response does not name it."""
    try:
        reasons = reply.read(Cancelled[Item]).CancellationReasons if reply is not None else []
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    failed = ((reason, index) for index, reason in enumerate(reasons) if reason.is_failed_condition)
    return next((Refusal(reason.Item or {}, repeated, index) for reason, index in failed), None)
