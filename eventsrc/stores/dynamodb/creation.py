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


class StreamSettings(msgspec.Struct):
    StreamEnabled: bool = False
    StreamViewType: str = ""

    def check_view(self) -> None:
        """Raise StoreRejected if the records of the stream lack what a feed reads."""
        if self.StreamViewType not in ("NEW_IMAGE", "NEW_AND_OLD_IMAGES"):
            raise StoreRejected(
                "StreamViewType", "the stream carries no new images; turn it off, and on again with view type NEW_IMAGE"
            )


class IndexDescription(msgspec.Struct):
    IndexName: str
    IndexStatus: str = "ACTIVE"
    KeySchema: list[dict[str, str]] = []
    Projection: dict[str, Any] = {}


class TableDescription(msgspec.Struct):
    TableStatus: str
    KeySchema: list[dict[str, str]]
    AttributeDefinitions: list[dict[str, str]]
    TableSizeBytes: int = 0
    GlobalSecondaryIndexes: list[IndexDescription] = []
    StreamSpecification: StreamSettings = msgspec.field(default_factory=StreamSettings)
    LatestStreamArn: str = ""


class ChangeResponse(msgspec.Struct):
    """The response to CreateTable and to UpdateTable."""

    TableDescription: dict[str, Any]


class DescribeResponse(msgspec.Struct):
    Table: TableDescription


class BackupsResponse(msgspec.Struct):
    ContinuousBackupsDescription: dict[str, Any]


_TIMEOUT = 120.0  # seconds
_POLL_INTERVAL = 0.5  # seconds
_REFUSALS = 20  # that descriptions may contradict, because they are eventually consistent
_PASSING = ("CREATING", "DELETING", "ARCHIVING")  # states that another one follows
TRACES = "traces"
"""The name of the index of commits by their correlation id and time. It contains whole commits."""

_NEW_IMAGES = {"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"}


async def create_table(
    client: Client,
    table: str,
    keys: Mapping[str, str],
    *,
    stream: bool = False,
    traces: Mapping[str, str] | None = None,
    point_in_time_recovery: bool = False,
    deletion_protection: bool = False,
) -> bool:
    """Create the table and wait until it can be used; False if it exists already.

    `keys` maps the partition key and the sort key, in this order, to their types. With `stream`, wait until the table
    has a stream, and turn it on for a table that has none; with `traces`, the keys of the index TRACES, the same for
    this index. Several processes may do this at the same time.

    Raises:
        Throttled, StoreUnavailable: the table is not ready; call it again.
        StoreRejected: calling it again does not help, for example because the table has different keys, or a stream
            that a feed cannot use.
    """
    request: dict[str, Any] = {
        "TableName": table,
        "AttributeDefinitions": _key_types(keys),
        "KeySchema": _key_schema(keys),
        "BillingMode": "PAY_PER_REQUEST",
    }
    if traces:
        request["AttributeDefinitions"] += _key_types(traces)
        request["GlobalSecondaryIndexes"] = [_index(traces)]
    if stream:
        request["StreamSpecification"] = _NEW_IMAGES
    if deletion_protection:
        request["DeletionProtectionEnabled"] = True
    try:
        async with asyncio.timeout(_TIMEOUT):
            created = await _create(client, request)
            await _wait_until_usable(client, table, keys)
            if stream:
                await _wait_for_stream(client, table)
            if traces:
                await _wait_for_index(client, table, keys, traces)
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
        await send_once(client, "CreateTable", request, ChangeResponse)
    except ServiceError as error:
        if error.code != "ResourceInUseException":
            raise
        return False
    return True


async def _wait_until_usable(client: Client, table: str, keys: Mapping[str, str]) -> None:
    while True:
        description = await _describe(client, table)
        if not _has_keys(description, keys):
            raise StoreRejected(
                "KeySchema", f"table {table} exists with other keys than the store's; use another table"
            )
        if description.TableStatus in ("ACTIVE", "UPDATING"):  # an update does not stop reads and writes
            return
        if description.TableStatus not in _PASSING:
            raise StoreRejected("TableStatus", f"table {table} is {description.TableStatus}; restore access to it")
        await asyncio.sleep(_POLL_INTERVAL)


async def _wait_for_stream(client: Client, table: str) -> None:
    """Wait until the table has a stream. Turn it on if it is off."""

    def is_ready(description: TableDescription) -> bool | None:
        if not description.StreamSpecification.StreamEnabled:
            return None
        description.StreamSpecification.check_view()
        return bool(description.LatestStreamArn)

    await _update_until(client, table, {"StreamSpecification": _NEW_IMAGES}, is_ready)


async def _wait_for_index(client: Client, table: str, keys: Mapping[str, str], traces: Mapping[str, str]) -> None:
    """Wait until the table has the index of traces. Create it if there is none.

    Raises StoreRejected if an index of this name has other keys, or lacks attributes.
    """

    def is_ready(description: TableDescription) -> bool | None:
        found = next((index for index in description.GlobalSecondaryIndexes if index.IndexName == TRACES), None)
        if found is None:
            return None
        if found.KeySchema != _key_schema(traces) or found.Projection.get("ProjectionType") != "ALL":
            raise StoreRejected("IndexName", f"table {table} has another index of the name {TRACES}; delete that index")
        return found.IndexStatus == "ACTIVE"

    types = _key_types(keys) + _key_types(traces)
    update = {"AttributeDefinitions": types, "GlobalSecondaryIndexUpdates": [{"Create": _index(traces)}]}
    await _update_until(client, table, update, is_ready)


async def _update_until(
    client: Client, table: str, update: Mapping[str, Any], is_ready: Callable[[TableDescription], bool | None]
) -> None:
    """Wait until the description of a table is ready. While it is None, what is wanted is missing: send the update."""
    refusals = 0
    while (ready := is_ready(await _describe(client, table))) is not True:
        if ready is None:
            try:
                await send_once(client, "UpdateTable", {"TableName": table, **update}, ChangeResponse)
                continue
            except ServiceError as error:
                if error.code != "ResourceInUseException":  # of a table that is being changed
                    refusals += 1  # another process may have changed it in the same way
                    if not (is_worth_repeating(error) or error.code == "ValidationException") or refusals > _REFUSALS:
                        raise
        await asyncio.sleep(_POLL_INTERVAL)


async def describe_size(client: Client, table: str) -> int:
    """Return the bytes of the table, as they were in the last six hours. Raises ServiceError or TransportError."""
    return (await send_once(client, "DescribeTable", {"TableName": table}, DescribeResponse)).Table.TableSizeBytes


async def _describe(client: Client, table: str) -> TableDescription:
    request = {"TableName": table}
    response = await _call_until_ready(
        lambda: send_once(client, "DescribeTable", request, DescribeResponse), not_yet="ResourceNotFoundException"
    )
    return response.Table


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


def _index(keys: Mapping[str, str]) -> dict[str, Any]:
    return {"IndexName": TRACES, "KeySchema": _key_schema(keys), "Projection": {"ProjectionType": "ALL"}}
