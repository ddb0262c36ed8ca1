"""One call of a handler: where it runs, how long it may take, and what becomes of a cancellation within it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from inspect import isawaitable
from typing import Any, NamedTuple, Protocol

from ...concurrency import wait_for_thread
from ...trace_context import enter, leave
from ..slice import Context, HandlerFailed
from .handlers import Call

GRACE = 5.0
"""Seconds that a handler has to end after it was cancelled. Then it is left alone."""

MAX_THREADS = 1_000  # of the process; with more of them, plain handlers of Effects fail

_left: set[asyncio.Future[Any]] = set()  # handlers that did not end; without a reference they could be collected


class Named(Protocol):
    @property
    def name(self) -> str: ...


class _Outcome(NamedTuple):
    """What a function in a thread returned or raised. Not every error can be the exception of a future."""

    value: Any = None
    error: BaseException | None = None


async def call_handler(
    projection: Named,
    call: Call,
    context: Context,
    timeout: float,
    *,
    attempt: int = 1,
    in_thread: bool = False,
    outages: tuple[type[Exception], ...] = (),
) -> None:
    """Call a handler, and await what it returns if that is awaitable, for at most `timeout` seconds.

    - With `in_thread`, a plain function runs in a daemon thread of its own, with the caller's context variables. So it
      blocks neither the event loop nor other handlers nor the end of the process. If it exceeds the limit, its thread
      continues to run, as threads cannot be ended.
    - A coroutine that exceeds the limit is cancelled. If it does not end within `GRACE` seconds, it continues to run.
    - Without `in_thread`, a plain function runs in the event loop, where nothing can end it.
    - If the caller is cancelled, this waits for the handler for up to `GRACE` seconds.
    - An error of `outages` is one of something that cannot be reached, and not of the handler.
    - What the handler commits is stamped with what caused it, and with the number of this attempt.

    Raises:
        HandlerFailed: the handler raised an error, exceeded the limit, or awaited a task that was cancelled.
    """
    handler, loop = call.handler, asyncio.get_running_loop()
    arguments = (projection, call.given, context) if handler.with_context else (projection, call.given)
    end = loop.time() + timeout
    token = enter(call.cause(projection.name, attempt))
    try:
        if in_thread and not handler.awaits:
            working = _start_thread(loop, handler.call, *arguments)
            outcome = await wait_for_thread(_limit(working, handler.name, timeout, timeout))
            if isinstance(outcome.error, KeyboardInterrupt | SystemExit):  # of a thread, which it does not end
                raise RuntimeError(f"{handler.name} raised {type(outcome.error).__name__}") from outcome.error
            if outcome.error is not None:
                raise outcome.error
            result = outcome.value
        else:
            result = handler.call(*arguments)
        if isawaitable(result):
            await _limit(asyncio.ensure_future(result), handler.name, end - loop.time(), timeout)
    except Exception as error:
        raise HandlerFailed(error, is_outage=isinstance(error, outages)) from error
    except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise HandlerFailed(RuntimeError(f"{handler.name} raised {type(error).__name__}")) from error
    finally:
        leave(token)


def refuse_awaitable(result: object, name: str) -> None:
    """Raise TypeError if a plain handler returned something to await, which nobody would await."""
    if not isawaitable(result):
        return
    if isinstance(result, Coroutine):
        result.close()  # or Python warns that it was never awaited
    elif isinstance(result, asyncio.Future):
        result.cancel()
    raise TypeError(
        f"{name} returned {type(result).__name__}, which is not awaited in this kind of projection; make calls that "
        "are awaited in Effects"
    )


def to_failure(error: Exception | asyncio.CancelledError) -> HandlerFailed:
    """Return the failure for what a plain handler raised. Nothing is awaited there, so a CancelledError is its own."""
    return HandlerFailed(error if isinstance(error, Exception) else RuntimeError("the handler raised CancelledError"))


def explain_timeout(name: str, timeout: float) -> str:
    return f"{name} took longer than the handler_timeout of {timeout:g} seconds"


async def _limit(future: asyncio.Future[Any], name: str, left: float, timeout: float) -> Any:
    """Return the result of a future if it is done in `left` seconds. Raises TimeoutError."""
    try:
        done, _ = await asyncio.wait({future}, timeout=left)
    except asyncio.CancelledError:  # our caller is cancelled
        await _end(future)
        raise
    if not done:
        is_thread = not isinstance(future, asyncio.Task)
        ended = False if is_thread else await _end(future)
        still = "" if ended else "; its thread still runs" if is_thread else "; it was cancelled, and still runs"
        raise TimeoutError(explain_timeout(name, timeout) + still)
    if future.cancelled():
        raise RuntimeError(f"a task that {name} awaited was cancelled")
    return future.result()


async def _end(future: asyncio.Future[Any]) -> bool:
    """Cancel a task and wait until it has ended, or wait for a thread. Return False if that takes too long."""
    if isinstance(future, asyncio.Task):
        future.cancel()
    _left.add(future)
    future.add_done_callback(_forget)
    done, _ = await asyncio.wait({future}, timeout=GRACE)
    return bool(done)


def _forget(future: asyncio.Future[Any]) -> None:
    """Drop a handler that has ended after all, and its error, which nobody waits for."""
    _left.discard(future)
    if not future.cancelled():
        future.exception()


def _start_thread(
    loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *arguments: Any
) -> asyncio.Future[_Outcome]:
    """Call a function in a daemon thread of its own."""
    future: asyncio.Future[_Outcome] = loop.create_future()
    context = copy_context()

    def report(outcome: _Outcome) -> None:
        if not future.done():
            future.set_result(outcome)

    def run() -> None:
        try:
            outcome = _Outcome(context.run(function, *arguments))
        except asyncio.CancelledError:
            outcome = _Outcome(error=RuntimeError("a task that the handler waited for was cancelled"))
        except BaseException as error:  # noqa: BLE001  # it is raised where the handler is awaited
            outcome = _Outcome(error=error)
        with suppress(RuntimeError):  # the loop is closed, and nobody waits
            loop.call_soon_threadsafe(report, outcome)

    if threading.active_count() > MAX_THREADS:
        raise RuntimeError(f"{MAX_THREADS} threads are running, as handlers block; the handler was not called")
    threading.Thread(target=run, name=f"eventsrc-{getattr(function, '__qualname__', 'handler')}", daemon=True).start()
    return future
