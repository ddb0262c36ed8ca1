"""The service's answers, typed. What the library does not use of them is not decoded.

They are kept from the garbage collector (`gc=False`), which would look through thousands of them while a page is
decoded: none refers to what refers to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec

from .client import Client, TransportError

T = TypeVar("T")

Item = dict[str, dict[str, Any]]
"""Of which nothing is known but its keys."""


class Text(msgspec.Struct, gc=False):
    """An attribute that should be one. Where it is of another type, this is empty, and that attribute is at fault."""

    S: str | None = None


class Number(msgspec.Struct, gc=False):
    N: str | None = None


class Binary(msgspec.Struct, gc=False):
    B: bytes | None = None


class Texts(msgspec.Struct, gc=False):
    L: list[Text] | None = None


class TextMap(msgspec.Struct, gc=False):
    M: dict[str, Text] | None = None


class Capacity(msgspec.Struct):
    CapacityUnits: float


class Metered(msgspec.Struct, kw_only=True):
    """A response with the capacity units that the request consumed."""

    @property
    def units(self) -> float:
        raise NotImplementedError


class Response(Metered, kw_only=True):
    """To a request for one table. It asked what it consumed: a body that does not say so is not the service's."""

    ConsumedCapacity: Capacity

    @property
    def units(self) -> float:
        return self.ConsumedCapacity.CapacityUnits


class TransactResponse(Metered, kw_only=True):
    """To TransactWriteItems: what each table consumed."""

    ConsumedCapacity: list[Capacity]

    @property
    def units(self) -> float:
        return sum(capacity.CapacityUnits for capacity in self.ConsumedCapacity)


class BatchResponse(TransactResponse, kw_only=True):
    """To BatchGetItem and BatchWriteItem: items by table, and what was left out."""

    Responses: dict[str, list[Item]] = {}
    UnprocessedKeys: dict[str, Any] = {}
    UnprocessedItems: dict[str, Any] = {}


class GetResponse(Response, Generic[T], kw_only=True):
    """To GetItem."""

    Item: T | None = None


class QueryResponse(Response, Generic[T], kw_only=True):
    """To Query: a page. It may end anywhere, and be empty: only the key to go on from tells whether there is more."""

    Items: list[T]
    LastEvaluatedKey: T | None = None


class ConditionFailed(msgspec.Struct, Generic[T]):
    """To a put whose condition failed: what stands there, if the endpoint tells."""

    Item: T | None = None


class Reason(msgspec.Struct):
    """Of one action of a transaction: `None` if it is not at fault."""

    Code: str = "None"
    Item: dict[str, dict[str, Any]] | None = None


class Cancelled(msgspec.Struct):
    """To TransactWriteItems: a reason for each action, in their order."""

    CancellationReasons: list[Reason]


async def send_once(client: Client, operation: str, request: Mapping[str, Any], kind: type[T]) -> T:
    """Send a request once and return its response. Raises ServiceError, and TransportError for any other answer."""
    reply = await client.call(operation, request)
    try:
        return reply.read(kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise TransportError("an answer that is not DynamoDB's") from None
