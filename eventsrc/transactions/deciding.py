"""Decide and commit, and decide again if another writer came first."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar, overload

from ..errors import ConflictError, TransactionTooLarge
from ..store import Store
from ..stores.transacting import Transacting
from .joint import Inline, Transaction

T = TypeVar("T")
D = TypeVar("D")


class _Decided(NamedTuple):
    result: Any
    error: Exception | None = None  # that the function raised


@overload
async def transact(store: Store, function: Callable[[Transaction], Awaitable[T]], *, attempts: int = 10) -> T: ...


@overload
async def transact(store: Store, function: Callable[[Transaction], T], *, attempts: int = 10) -> T: ...


@overload
async def transact(
    store: Transacting[D], function: Callable[[Transaction], Awaitable[T]], *, attempts: int = 10, inline: Inline[D]
) -> T: ...


@overload
async def transact(
    store: Transacting[D], function: Callable[[Transaction], T], *, attempts: int = 10, inline: Inline[D]
) -> T: ...


async def transact(
    store: object,
    function: Callable[[Transaction], Any],
    *,
    attempts: int = 10,
    inline: Inline[Any] | None = None,
) -> Any:
    """Call `function(tx)`, commit what it recorded on the aggregates of the transaction, and return its result.

    - If a stream has moved since it was read, the function is called again with a new transaction. So it must have no
      effects except through the transaction.
    - It is serializable: what it returns or raises is what it would have, had it run alone at one moment. If nothing
      is stored, because it raised an error or recorded nothing, and it has read several streams, they are checked.
      The exception is an error after more than 100 streams were read: it is raised without the check.
    - The function may be async or plain.

    Raises:
        Exception: the error that the function raised; nothing was stored.
        ConflictError: another writer came first in each of the `attempts`.
        TransactionOutcomeUnknown, StoreError: as `Transaction.commit`.
    """
    if type(attempts) is not int or attempts < 1:
        raise ValueError(f"attempts is {attempts!r}; it must be an int of at least 1")

    async def attempt() -> _Decided:
        tx = Transaction(store, inline)
        try:
            result = function(tx)
            if inspect.isawaitable(result):
                result = await result
        except Exception as error:  # noqa: BLE001  # it is raised below, if it is one of the latest state
            tx.close()
            with suppress(TransactionTooLarge):  # the error of the function says more
                await tx.check()
            return _Decided(None, error)
        finally:
            tx.close()
        await tx.commit()
        return _Decided(result)

    result, error = await _repeat(attempt, attempts)
    if error is not None:
        raise error
    return result


async def _repeat(attempt: Callable[[], Awaitable[_Decided]], attempts: int) -> _Decided:
    try:
        return await attempt()
    except ConflictError:
        if attempts < 2:
            raise
    from ..retrying import on_conflict  # here, because few calls need it and tenacity is slow to import

    decided: _Decided = await on_conflict(attempts - 1)(attempt)
    return decided
