"""The types of the service's responses. Fields that the library does not use are not decoded.

`gc=False` hides the attributes from the garbage collector, which would otherwise scan thousands of them while a page is
decoded. They cannot be part of a reference cycle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec

from .client import Client, Reply, TransportError

T = TypeVar("T")

Item = dict[str, dict[str, Any]]
"""An item with attributes of any names and types."""


class Text(msgspec.Struct, frozen=True, gc=False):
    """An attribute that should be a text. `S` is None if it has another type. The same holds for the types below."""

    S: str | None = None


class Number(msgspec.Struct, frozen=True, gc=False):
    N: str | None = None


class Binary(msgspec.Struct, frozen=True, gc=False):
    B: bytes | None = None


class Texts(msgspec.Struct, frozen=True, gc=False):
    L: list[Text] | None = None


class TextMap(msgspec.Struct, frozen=True, gc=False):
    M: dict[str, Text] | None = None


class Capacity(msgspec.Struct):
    CapacityUnits: float


class Metered(msgspec.Struct, kw_only=True):
    """A response to a request that asks for the capacity it consumes. Some servers do not report it: see `decode`."""

    ConsumedCapacity: Any = None

    @property
    def units(self) -> float:
        """The capacity units that the request consumed, 0 if they are not reported."""
        raise NotImplementedError


class Response(Metered, kw_only=True):
    """The response to a request for one table."""

    ConsumedCapacity: Capacity | None = None

    @property
    def units(self) -> float:
        return self.ConsumedCapacity.CapacityUnits if self.ConsumedCapacity is not None else 0.0


class TransactResponse(Metered, kw_only=True):
    """The response to TransactWriteItems, with the capacity that each table consumed."""

    ConsumedCapacity: list[Capacity] | None = None

    @property
    def units(self) -> float:
        return sum(capacity.CapacityUnits for capacity in self.ConsumedCapacity or ())


class BatchResponse(TransactResponse, kw_only=True):
    """The response to BatchGetItem or BatchWriteItem: items by table, and the requests that were left out."""

    Responses: dict[str, list[Item]] = {}
    UnprocessedKeys: dict[str, Any] = {}
    UnprocessedItems: dict[str, Any] = {}


class GetResponse(Response, Generic[T], kw_only=True):
    """The response to GetItem."""

    Item: T | None = None


class QueryResponse(Response, Generic[T], kw_only=True):
    """The response to Query or Scan: a page, which may be empty. There are more pages if `LastEvaluatedKey` is set."""

    Items: list[T]
    LastEvaluatedKey: T | None = None


class ConditionFailed(msgspec.Struct, Generic[T]):
    """The response to a write whose condition failed, with the stored item if the endpoint returns it."""

    Item: T | None = None


class Reason(msgspec.Struct, Generic[T]):
    """Why one action of a transaction was cancelled. The code is "None" if the action did not fail."""

    Code: str = "None"
    Item: T | None = None

    @property
    def is_failed_condition(self) -> bool:
        return self.Code == "ConditionalCheckFailed"


class Cancelled(msgspec.Struct, Generic[T]):
    """The response to TransactWriteItems that was cancelled: a reason for each action, in their order."""

    CancellationReasons: list[Reason[T]]


async def send_once(client: Client, operation: str, request: Mapping[str, Any], kind: type[T]) -> T:
    """Send a request once. Raises ServiceError if it is refused, and TransportError without a valid response."""
    return decode(await client.call(operation, request), kind)


def decode(reply: Reply, kind: type[T]) -> T:
    """Return a reply as this type. Raises TransportError if it is not the service's.

    A body such as `{}` may also come from a broken gateway that has not forwarded the request, whatever its status and
    its content type are. So the service is recognised by the capacity that was asked for or, because other servers of
    the same protocol do not report it, by the id of the request.
    """
    try:
        response = reply.read(kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise TransportError("the response is not one of DynamoDB") from None
    if isinstance(response, Metered) and not response.ConsumedCapacity and not reply.request_id:
        raise TransportError("the response has neither the consumed capacity nor the header x-amzn-requestid")
    return response
