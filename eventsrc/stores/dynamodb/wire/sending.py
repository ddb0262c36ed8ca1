"""Sending a request until its outcome is definite."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from ....retrying import on_indefinite
from ....usage import Usage
from .client import Client, NotSent, ServiceError, TransportError
from .limits import Limits
from .outcomes import (
    CONDITION_FAILED,
    DeadlinePassed,
    is_definite,
    is_throttle,
    is_worth_repeating,
    unwrap_cancellation,
)
from .responses import Metered, send_once

T = TypeVar("T")

_READS = frozenset({"GetItem", "Query", "Scan", "BatchGetItem"})
_LAST_TRY_SHARE = 0.1
"""The share of the deadline that a try needs. None starts with less, or with less than another one needed to fail to
connect: it could be cut short, and its outcome would be unknown."""


def count_tries(
    client: Client, operation: str, request: Mapping[str, Any], kind: type[T], used: Usage
) -> Callable[[], Awaitable[T]]:
    """Return a function that sends the request once and adds what it consumed to `used`."""
    tries = 0

    async def once() -> T:
        nonlocal tries
        tries += 1
        used.requests += 1
        used.retries += tries > 1
        try:
            response = await send_once(client, operation, request, kind)
        except ServiceError as error:
            failure = unwrap_cancellation(error)
        else:
            if isinstance(response, Metered):
                if operation in _READS:
                    used.read_units += response.units
                else:
                    used.write_units += response.units
            return response
        raise failure  # outside the handler, so that the original error is not its context

    return once


async def send(call: Callable[[], Awaitable[T]], limits: Limits) -> T:
    """Call until the outcome is definite. Each call must send exactly the same request.

    After throttling, a turn to call again is left out if no retry is left.

    Raises:
        ServiceError: the service refused the request. If a condition failed, an earlier try may have written.
        DeadlinePassed: the deadline passed, or the service refused the request permanently after a try with an
            unknown outcome. Such an outcome stays unknown.
    """
    ambiguous, deadline = False, limits.deadline
    last: Exception | None = None
    now = asyncio.get_running_loop().time
    end, shortest = now() + deadline, deadline * _LAST_TRY_SHARE

    async def once() -> T:
        nonlocal ambiguous, last, shortest
        async with limits.slots:
            if (begun := now()) > end - shortest:
                raise TimeoutError
            if last is not None and is_throttle(last) and not limits.spend_retry():
                raise last
            before, ambiguous = ambiguous, True
            try:
                response = await call()
                limits.earn_retry()
                return response
            except (ServiceError, TransportError) as error:
                last = error
                if is_definite(error):
                    ambiguous = before
                if isinstance(error, NotSent):
                    shortest = max(shortest, now() - begun)
                raise
            except asyncio.CancelledError as cut:
                if isinstance(cut.__cause__, NotSent):
                    last = last if isinstance(last, NotSent) else cut.__cause__  # the earlier one says why
                    ambiguous = before
                raise

    try:
        async with asyncio.timeout(deadline):
            try:
                return await once()
            except (ServiceError, TransportError) as error:
                if not is_worth_repeating(error):
                    raise
            await asyncio.sleep(0.025)
            return await on_indefinite(is_worth_repeating, deadline)(once)
    except ServiceError as error:
        if is_worth_repeating(error) or (ambiguous and error.code != CONDITION_FAILED):
            raise DeadlinePassed(ambiguous, error) from None
        raise
    except (TimeoutError, TransportError):
        raise DeadlinePassed(ambiguous, last) from None
