"""Limits that the calls of one owner share: requests in flight, the deadline, and retries after throttling."""

from __future__ import annotations

import asyncio

RESERVE = 100
"""Retries in advance, for a burst."""
PER_SECOND = 5
"""Retries that become available each second, so that a call whose deadline is long does not wait in vain."""


class Limits:
    """Slots for the requests in flight, the deadline of a call in seconds, and a retry budget.

    Each request that is answered earns a retry, and each retry after throttling spends one. So there are at most as
    many retries as answers, apart from RESERVE and PER_SECOND, however many calls wait. Without a budget, calls that
    are throttled together would multiply the load that caused it.
    """

    def __init__(self, deadline: float, max_connections: int) -> None:
        self.deadline = deadline
        self.slots = asyncio.Semaphore(max_connections)
        self._retries = float(RESERVE)
        self._renewed = 0.0  # the time up to which PER_SECOND is counted

    def earn_retry(self) -> None:
        """Note a request that was answered."""
        if self._retries < RESERVE:
            self._retries += 1

    def spend_retry(self) -> bool:
        """Take one retry. Return False if none is left."""
        now = asyncio.get_running_loop().time()
        self._retries = min(self._retries + (now - self._renewed) * PER_SECOND, RESERVE)
        self._renewed = now
        if self._retries < 1:
            return False
        self._retries -= 1
        return True
