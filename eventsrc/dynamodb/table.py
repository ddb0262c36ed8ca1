"""Creating the table."""

from __future__ import annotations

import asyncio
from typing import Any

from ..errors import StoreRejected, StoreUnavailable
from .client import Item, SDKClient, ServiceError, TransportError
from .items import Items
from .outcome import rejected

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
    """Create the table and wait until it is active; False if it was there. Raises StoreRejected, StoreUnavailable."""
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
        created = await _create(client, request)
        await _wait_until_active(client, table, items)
        if point_in_time_recovery:
            await client.update_continuous_backups(
                TableName=table, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
            )
    except ServiceError as error:
        raise rejected(error) from None
    except (TransportError, TimeoutError) as error:
        raise StoreUnavailable(f"table {table} is not ready ({type(error).__name__}); call it again") from None
    return created


async def _create(client: SDKClient, request: dict[str, Any]) -> bool:
    try:
        await client.create_table(**request)
    except ServiceError as error:
        if error.code != "ResourceInUseException":
            raise
        return False
    return True


async def _wait_until_active(client: SDKClient, table: str, items: Items) -> None:
    async with asyncio.timeout(_READY_WITHIN):
        while True:
            found = (await client.describe_table(TableName=table))["Table"]
            if not _fits(found, items):
                raise StoreRejected("KeySchema", f"table {table} exists with other keys than the store's")
            if found["TableStatus"] == "ACTIVE":
                return
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
