"""What the service says of the table of a store. Nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from ...errors import StoreRejected
from ...usage import Usage
from .description import DescribeResponse, TableDescription, TableSettings
from .feed.table_feed import send_read
from .store import DynamoDBStore
from .wire.attributes import text_of
from .wire.client import ServiceError
from .wire.outcomes import to_store_rejected

T = TypeVar("T")


class Recovery(msgspec.Struct):
    PointInTimeRecoveryStatus: str = "DISABLED"


class Backups(msgspec.Struct):
    PointInTimeRecoveryDescription: Recovery = msgspec.field(default_factory=Recovery)


class BackupsResponse(msgspec.Struct):
    ContinuousBackupsDescription: Backups


class TimeToLive(msgspec.Struct):
    TimeToLiveStatus: str = "DISABLED"
    AttributeName: str = ""


class TimeToLiveResponse(msgspec.Struct):
    TimeToLiveDescription: TimeToLive


class Examined(NamedTuple):
    """A table as the service describes it. Counts are those of some hours ago."""

    description: TableDescription
    recovers: bool | None  # point-in-time recovery is on; None if that cannot be read
    expiring: str | None  # the attribute of time to live, "" if that is off; None if that cannot be read
    identity: str | None  # as it is stored; None if none is stored yet, or it cannot be read


async def examine(store: DynamoDBStore) -> Examined | None:
    """Return what the service says of the table of an open store; None if there is no such table.

    Raises:
        StoreError: the table cannot be described.
    """
    try:
        description = await _describe(store)
    except ServiceError as error:
        if error.code == "ResourceNotFoundException":
            return None
        raise to_store_rejected(error, store.table.name) from None
    return Examined(description, await _find_recovery(store), await _find_expiring(store), await _find_identity(store))


async def ask(store: DynamoDBStore, operation: str, request: dict[str, Any], kind: type[T]) -> T:
    """Send a request that may be sent twice. Raises ServiceError if it is refused, and StoreError."""
    used = Usage(calls=1)
    with store.table.guard(used):
        client = store.table.connection.client
        assert client is not None
        return await send_read(client, operation, request, kind, store.table.connection.limits, used)


def find_changes(settings: TableSettings, found: Examined | None) -> Sequence[str]:
    """Return what the creation of a table with these settings would do, as `create the table`.

    Raises StoreRejected if the table exists with other keys, or with a stream or an index that does not fit.
    """
    if found is not None:
        found.description.check(settings)
    has_stream = found is not None and found.description.StreamSpecification.StreamEnabled
    has_index = found is not None and found.description.traces is not None
    wanted = {
        "create the table": found is None,
        "turn on the stream": settings.stream and not has_stream,
        "create the index of traces": settings.traces is not None and not has_index,
        "turn on point-in-time recovery": settings.point_in_time_recovery and not (found and found.recovers),
        "turn on deletion protection": settings.deletion_protection and found is None,
    }
    return [change for change, is_wanted in wanted.items() if is_wanted]


async def _describe(store: DynamoDBStore) -> TableDescription:
    return (await ask(store, "DescribeTable", {"TableName": store.table.name}, DescribeResponse)).Table


async def _find_recovery(store: DynamoDBStore) -> bool | None:
    try:
        found = await ask(store, "DescribeContinuousBackups", {"TableName": store.table.name}, BackupsResponse)
    except ServiceError:
        return None
    status = found.ContinuousBackupsDescription.PointInTimeRecoveryDescription.PointInTimeRecoveryStatus
    return status == "ENABLED"


async def _find_expiring(store: DynamoDBStore) -> str | None:
    try:
        found = await ask(store, "DescribeTimeToLive", {"TableName": store.table.name}, TimeToLiveResponse)
    except ServiceError:
        return None
    status = found.TimeToLiveDescription
    return status.AttributeName if status.TimeToLiveStatus in ("ENABLED", "ENABLING") else ""


async def _find_identity(store: DynamoDBStore) -> str | None:
    try:
        item = await store.table.get(store.items.identity_key)
    except StoreRejected:  # for example for lack of a right, or because the keys are others
        return None
    return text_of(item, store.items.identity_attribute) if item is not None else None
