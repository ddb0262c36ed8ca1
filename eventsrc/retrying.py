"""When something is tried again, and after how long: policies over tenacity, named after what went wrong.

A policy is called with what is to be tried: `await on_conflict(attempts)(save)`.
"""

from __future__ import annotations

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from .errors import ConflictError


def on_conflict(attempts: int) -> AsyncRetrying:
    """Decide again when another writer came first: up to `attempts` times, 10 ms apart at first and 0.5 s at most."""
    return AsyncRetrying(
        retry=retry_if_exception_type(ConflictError),
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=0.01, max=0.5),
        reraise=True,
    )
