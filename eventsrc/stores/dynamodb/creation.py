"""Creation of a table."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from ...errors import StoreError, StoreRejected, StoreUnavailable, Throttled
from .description import NEW_IMAGES, RECOVERY, DescribeResponse, TableDescription, TableSettings
from .wire.client import CertificateRefused, Client, ServiceError, TransportError
from .wire.outcomes import is_throttle, is_worth_repeating, to_certificate_rejection, to_store_rejected
from .wire.responses import send_once

T = TypeVar("T")


class ChangeResponse(msgspec.Struct):
    """The response to CreateTable and to UpdateTable."""

    TableDescription: dict[str, Any]


class BackupsResponse(msgspec.Struct):
    ContinuousBackupsDescription: dict[str, Any]


_TIMEOUT = 120.0  # seconds
_POLL_INTERVAL = 0.5  # seconds
_REFUSALS = 20  # that descriptions may contradict, because they are eventually consistent
_PASSING = ("CREATING", "DELETING", "ARCHIVING")  # states that another one follows


async def create_table(client: Client, settings: TableSettings) -> bool:
    """Create the table and wait until it can be used; False if it exists already.

    With `stream`, wait until the table has a stream, and turn it on for a table that has none; with `traces`, the same
    for the index TRACES. Point-in-time recovery is turned on for any table, deletion protection only for a new one.
    Several processes may do this at the same time.

    Raises:
        Throttled, StoreUnavailable: the table is not ready; call it again.
        StoreRejected: calling it again does not help, for example because the table has different keys, or a stream
            that a feed cannot use.
    """
    table = settings.name
    try:
        async with asyncio.timeout(_TIMEOUT):
            created = await _create(client, settings.to_request())
            await _wait_until_usable(client, settings)
            if settings.stream:
                await _wait_for_stream(client, settings)
            if settings.traces is not None:
                await _wait_for_index(client, settings)
            if settings.point_in_time_recovery:
                recovery = {"TableName": table, "PointInTimeRecoverySpecification": RECOVERY}
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


async def _wait_until_usable(client: Client, settings: TableSettings) -> None:
    while True:
        description = await _describe(client, settings.name)
        description.check(settings)
        if description.TableStatus in ("ACTIVE", "UPDATING"):  # an update does not stop reads and writes
            return
        if description.TableStatus not in _PASSING:
            reason = f"table {settings.name} is {description.TableStatus}; restore access to it"
            raise StoreRejected("TableStatus", reason)
        await asyncio.sleep(_POLL_INTERVAL)


async def _wait_for_stream(client: Client, settings: TableSettings) -> None:
    """Wait until the table has a stream. Turn it on if it is off."""

    def is_ready(description: TableDescription) -> bool | None:
        description.check(settings)
        return bool(description.LatestStreamArn) if description.StreamSpecification.StreamEnabled else None

    await _update_until(client, settings.name, {"StreamSpecification": NEW_IMAGES}, is_ready)


async def _wait_for_index(client: Client, settings: TableSettings) -> None:
    """Wait until the table has the index of traces. Create it if there is none."""

    def is_ready(description: TableDescription) -> bool | None:
        description.check(settings)
        return description.traces.IndexStatus == "ACTIVE" if description.traces is not None else None

    update = {
        "AttributeDefinitions": settings.key_types,
        "GlobalSecondaryIndexUpdates": [{"Create": settings.trace_index}],
    }
    await _update_until(client, settings.name, update, is_ready)


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


async def describe_table(client: Client, table: str) -> TableDescription:
    """Return the description of the table. Raises ServiceError or TransportError."""
    return (await send_once(client, "DescribeTable", {"TableName": table}, DescribeResponse)).Table


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
