"""Creation of a table."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from ...errors import StoreError, StoreRejected, StoreUnavailable, Throttled
from .wire.client import CertificateRefused, Client, ServiceError, TransportError
from .wire.outcomes import is_throttle, is_worth_repeating, to_certificate_rejection, to_store_rejected
from .wire.responses import send_once

T = TypeVar("T")


class TableDescription(msgspec.Struct):
    TableStatus: str
    KeySchema: list[dict[str, str]]
    AttributeDefinitions: list[dict[str, str]]


class CreateResponse(msgspec.Struct):
    TableDescription: dict[str, Any]


class DescribeResponse(msgspec.Struct):
    Table: TableDescription


class BackupsResponse(msgspec.Struct):
    ContinuousBackupsDescription: dict[str, Any]


_TIMEOUT = 120.0  # seconds
_POLL_INTERVAL = 0.5  # seconds


async def create_table(
    client: Client,
    table: str,
    keys: Mapping[str, str],
    *,
    stream: bool = False,
    point_in_time_recovery: bool = False,
    deletion_protection: bool = False,
) -> bool:
    """Create the table and wait until it is active; False if it exists already.

    `keys` maps the partition key and the sort key, in this order, to their types.

    Raises:
        Throttled, StoreUnavailable: the table is not ready; call it again.
        StoreRejected: calling it again does not help, for example because the table has different keys.
    """
    request: dict[str, Any] = {
        "TableName": table,
        "AttributeDefinitions": _key_types(keys),
        "KeySchema": _key_schema(keys),
        "BillingMode": "PAY_PER_REQUEST",
    }
    if stream:
        request["StreamSpecification"] = {"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"}
    if deletion_protection:
        request["DeletionProtectionEnabled"] = True
    try:
        async with asyncio.timeout(_TIMEOUT):
            created = await _create(client, request)
            await _wait_until_active(client, table, keys)
            if point_in_time_recovery:
                recovery = {
                    "TableName": table,
                    "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
                }
                backups = "ContinuousBackupsUnavailableException"
                await _call_until_ready(
                    lambda: send_once(client, "UpdateContinuousBackups", recovery, BackupsResponse), not_yet=backups
                )
    except (ServiceError, TransportError, TimeoutError) as error:
        raise _to_store_error(table, error) from None
    return created


def _to_store_error(table: str, error: Exception) -> StoreError:
    if isinstance(error, ServiceError) and not is_worth_repeating(error):
        return to_store_rejected(error)
    if isinstance(error, CertificateRefused):
        return to_certificate_rejection(error)
    reason = error.code or str(error.status) if isinstance(error, ServiceError) else str(error) or type(error).__name__
    kind = Throttled if is_throttle(error) else StoreUnavailable
    return kind(f"table {table} is not ready ({reason}); call it again")


async def _create(client: Client, request: dict[str, Any]) -> bool:
    try:
        await send_once(client, "CreateTable", request, CreateResponse)
    except ServiceError as error:
        if error.code != "ResourceInUseException":
            raise
        return False
    return True


async def _wait_until_active(client: Client, table: str, keys: Mapping[str, str]) -> None:
    missing = "ResourceNotFoundException"
    request = {"TableName": table}
    while True:
        description = (
            await _call_until_ready(
                lambda: send_once(client, "DescribeTable", request, DescribeResponse), not_yet=missing
            )
        ).Table
        if not _has_keys(description, keys):
            raise StoreRejected(
                "KeySchema", f"table {table} exists with other keys than the store's; use another table"
            )
        if description.TableStatus == "ACTIVE":
            return
        await asyncio.sleep(_POLL_INTERVAL)


async def _call_until_ready(call: Callable[[], Awaitable[T]], not_yet: str) -> T:
    """Call again while the error is `not_yet`: what the service reports of a new table is eventually consistent."""
    while True:
        try:
            return await call()
        except ServiceError as error:
            if error.code != not_yet:
                raise
        await asyncio.sleep(_POLL_INTERVAL)


def _has_keys(table: TableDescription, keys: Mapping[str, str]) -> bool:
    """Whether the keys have these names and types. Indexes of the table may define further attributes."""
    names = all(key in table.KeySchema for key in _key_schema(keys))
    return names and all(key in table.AttributeDefinitions for key in _key_types(keys))


def _key_schema(keys: Mapping[str, str]) -> list[dict[str, str]]:
    partition, sort = keys
    return [{"AttributeName": partition, "KeyType": "HASH"}, {"AttributeName": sort, "KeyType": "RANGE"}]


def _key_types(keys: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"AttributeName": name, "AttributeType": kind} for name, kind in keys.items()]
