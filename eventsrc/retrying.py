"""Retry policies, built on tenacity. Each is named after the failure that it retries.

Call a policy with the function to try: `await on_conflict(attempts)(save)`.
"""

from __future__ import annotations

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from .errors import ConflictError


def on_conflict(attempts: int) -> AsyncRetrying:
    """Try again after ConflictError, `attempts` times in all, with random waits of up to 10 ms at first, then 0.5 s."""
    return AsyncRetrying(
        retry=retry_if_exception_type(ConflictError),
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=0.01, max=0.5),
        reraise=True,
    )
