"""Retry policies, built on tenacity. Each is named after the failure that it retries.

Call a policy with the function to try: `await on_conflict(attempts)(save)`. Waits are in seconds, and random up to a
limit that doubles, so that many callers do not try again at the same moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_random,
    wait_random_exponential,
)

from .errors import ConflictError, Fenced, SourceUnavailable, StoreUnavailable, Throttled

TRANSIENT = (Throttled, StoreUnavailable)
"""Errors after which the same call is tried again: nothing was done, and a later try may succeed."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0  # after a failed handler; each pause is four times the last one


def on_conflict(attempts: int) -> AsyncRetrying:
    """Try again after ConflictError, `attempts` times in all, with random waits of up to 10 ms at first, then 0.5 s."""
    return AsyncRetrying(
        retry=retry_if_exception_type(ConflictError),
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=0.01, max=0.5),
        reraise=True,
    )


def on_takeover() -> AsyncRetrying:
    """Try again after Fenced, up to five times in all: a worker has just claimed the slot, whose new epoch is read."""
    return AsyncRetrying(
        retry=retry_if_exception_type(Fenced), stop=stop_after_attempt(5), wait=wait_random(0, 0.2), reraise=True
    )


def on_indefinite(is_worth_repeating: Callable[[BaseException], bool], deadline: float) -> AsyncRetrying:
    """Send a request again until its outcome is definite, or `deadline` seconds have passed."""
    return AsyncRetrying(
        retry=retry_if_exception(is_worth_repeating),
        stop=stop_before_delay(deadline),
        wait=wait_random_exponential(multiplier=0.05, max=2.0),
        reraise=True,
    )


def on_broken_download(error: type[Exception], attempts: int) -> AsyncRetrying:
    """Read a part of a file again after this error, up to `attempts` times in all."""
    return AsyncRetrying(
        retry=retry_if_exception_type(error),
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=0.1, max=3.0),
        reraise=True,
    )


def on_outage(
    is_transient: Callable[[BaseException], bool] = lambda error: isinstance(error, TRANSIENT),
    *,
    longest: float = 5.0,
    gives_up: Callable[[], bool] = lambda: False,
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    note: Callable[[BaseException, float], None] = lambda error, seconds: None,
) -> AsyncRetrying:
    """Wait for a store that cannot be reached, at most `longest` seconds between attempts, until the caller `gives_up`.

    `note` is called before each wait with the error and the seconds to wait.
    """

    def before_sleep(state: RetryCallState) -> None:
        if state.outcome is not None and (error := state.outcome.exception()) is not None:
            note(error, state.upcoming_sleep)

    return AsyncRetrying(
        retry=retry_if_exception(is_transient),
        stop=lambda _: gives_up(),
        wait=_outage_wait(longest),
        sleep=sleep,
        before_sleep=before_sleep,
        reraise=True,
    )


def on_failed_handler(
    error: type[Exception],
    failures: Callable[[], int],
    gives_up: Callable[[], bool],
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> AsyncRetrying:
    """Call a handler again after its `failures` at one commit, and wait for a store that cannot be reached."""

    outage = _outage_wait(5.0)

    def has_failed(state: RetryCallState) -> bool:
        return state.outcome is not None and isinstance(state.outcome.exception(), error)

    def pause(state: RetryCallState) -> float:
        if not has_failed(state):
            return outage(state)
        jitter: float = wait_random(0, _FIRST_PAUSE)(state)
        seconds: float = min(_FIRST_PAUSE * 4 ** min(failures() - 1, 9), _LONGEST_PAUSE)
        return seconds + jitter

    return AsyncRetrying(
        retry=retry_if_exception_type((error, *TRANSIENT)),
        stop=lambda state: has_failed(state) and gives_up(),
        wait=pause,
        sleep=sleep,
        reraise=True,
    )


def on_busy_sink(patience: float) -> AsyncRetrying:
    """Send again what a sink did not take, with waits of up to 2 s, until `patience` seconds have passed."""
    return AsyncRetrying(
        retry=retry_if_exception_type(TRANSIENT),
        stop=stop_before_delay(patience),
        wait=wait_random_exponential(multiplier=0.05, max=2.0),
        reraise=True,
    )


def on_lost_source(patience: float, note: Callable[[SourceUnavailable, float], None]) -> AsyncRetrying:
    """Ask another service again, until `patience` seconds have passed since the first failure.

    The waits grow to 30 s, and are not shorter than the service asks for, up to 300 s. `note` is called before each
    wait with the error and the seconds to wait.
    """
    outage = wait_random_exponential(multiplier=0.1, max=30.0)
    lost_at: float | None = None

    def error_of(state: RetryCallState) -> SourceUnavailable:
        error = state.outcome.exception() if state.outcome is not None else None
        assert isinstance(error, SourceUnavailable)
        return error

    def gives_up(state: RetryCallState) -> bool:
        nonlocal lost_at
        now = state.outcome_timestamp or 0.0
        lost_at = now if lost_at is None else lost_at
        return now + state.upcoming_sleep - lost_at > patience

    return AsyncRetrying(
        retry=retry_if_exception_type(SourceUnavailable),
        stop=gives_up,
        wait=lambda state: max(outage(state), min(error_of(state).retry_after, 300.0)),
        before_sleep=lambda state: note(error_of(state), state.upcoming_sleep),
        reraise=True,
    )


def _outage_wait(longest: float) -> wait_random_exponential:
    return wait_random_exponential(multiplier=longest / 50, max=longest)
