"""Creating the table."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ..errors import StoreError, StoreRejected, StoreUnavailable, Throttled
from .client import Item, SDKClient, ServiceError, TransportError
from .items import Items
from .outcome import is_throttle, is_worth_repeating, rejected

_READY_WITHIN = 120.0  # seconds
_POLL = 0.5  # seconds


async def create_table(
    client: SDKClient,
    table: str,
    items: Items,
    *,
    stream: bool,
    point_in_time_recovery: bool,
    deletion_protection: bool,
) -> bool:
    """Create the table and wait until it is active; False if it was there.

    Raises Throttled or StoreUnavailable when calling it again may help, else StoreRejected.
    """
    request: dict[str, Any] = {
        "TableName": table,
        "AttributeDefinitions": _key_types(items),
        "KeySchema": _key_schema(items),
        "BillingMode": "PAY_PER_REQUEST",
    }
    if stream:
        request["StreamSpecification"] = {"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"}
    if deletion_protection:
        request["DeletionProtectionEnabled"] = True
    try:
        async with asyncio.timeout(_READY_WITHIN):
            created = await _create(client, request)
            await _wait_until_active(client, table, items)
            if point_in_time_recovery:
                recovery = {
                    "TableName": table,
                    "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
                }
                backups = "ContinuousBackupsUnavailableException"
                await _once_ready(lambda: client.update_continuous_backups(**recovery), not_yet=backups)
    except (ServiceError, TransportError, TimeoutError) as error:
        raise _failure(table, error) from None
    return created


def _failure(table: str, error: Exception) -> StoreError:
    if isinstance(error, ServiceError) and not is_worth_repeating(error):
        return rejected(error)
    reason = error.code or str(error.status) if isinstance(error, ServiceError) else type(error).__name__
    kind = Throttled if is_throttle(error) else StoreUnavailable
    return kind(f"table {table} is not ready ({reason}); call it again")


async def _create(client: SDKClient, request: dict[str, Any]) -> bool:
    try:
        await client.create_table(**request)
    except ServiceError as error:
        if error.code != "ResourceInUseException":
            raise
        return False
    return True


async def _wait_until_active(client: SDKClient, table: str, items: Items) -> None:
    missing = "ResourceNotFoundException"
    while True:
        found = (await _once_ready(lambda: client.describe_table(TableName=table), not_yet=missing))["Table"]
        if not _fits(found, items):
            raise StoreRejected("KeySchema", f"table {table} exists with other keys than the store's")
        if found["TableStatus"] == "ACTIVE":
            return
        await asyncio.sleep(_POLL)


async def _once_ready(call: Callable[[], Awaitable[Item]], not_yet: str) -> Item:
    """Call until the answer is not `not_yet`: what is said of a new table is only eventually consistent."""
    while True:
        try:
            return await call()
        except ServiceError as error:
            if error.code != not_yet:
                raise
        await asyncio.sleep(_POLL)


def _fits(table: Item, items: Items) -> bool:
    """Whether keys have the names and types that the store needs; further attributes may be indexed."""
    names = all(key in table["KeySchema"] for key in _key_schema(items))
    return names and all(key in table["AttributeDefinitions"] for key in _key_types(items))


def _key_schema(items: Items) -> list[dict[str, str]]:
    return [
        {"AttributeName": items.partition_key, "KeyType": "HASH"},
        {"AttributeName": items.sort_key, "KeyType": "RANGE"},
    ]


def _key_types(items: Items) -> list[dict[str, str]]:
    return [
        {"AttributeName": items.partition_key, "AttributeType": "S"},
        {"AttributeName": items.sort_key, "AttributeType": "N"},
    ]
