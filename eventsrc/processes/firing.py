"""Firing timers: when one is due, that is recorded in its process, once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from ..concurrency import load_all
from ..log import log
from ..retrying import TRANSIENT
from .timers import Due, Timers

LOOK_SECONDS = 60.0
"""How often the stored timers are looked at, if none is due: others may have stored some, as in a restore."""

TICK_SECONDS = 0.25
"""How often the clock is looked at, which may be set. This reads nothing."""

OUTAGE_SECONDS = 1.0
"""The pause after a store could not be reached."""

_AGAIN, _LATEST = 500_000, 8_000_000  # µs, after which due timers that may not be fired here are looked at again
_AGAIN_SECONDS = 5.0  # after a timer could not be fired, at least
_AT_ONCE = 100  # timers that are read together
_CONCURRENTLY = 32


def read_clock() -> int:
    """Return the time in µs since the epoch."""
    return time.time_ns() // 1000


class Firing:
    """Fires the timers of one processor, in the order in which they are due.

    - It remembers when the next one of each part is due, so it reads nothing until then.
    - Due timers that may not be fired here, as those of other workers, are looked at again after 0.5 s, doubling up to
      8 s. When the slots that are held change, as after a take-over, all parts are looked at at once.
    - A timer is removed after it was fired: if that is interrupted, it is fired again, which records nothing.
    """

    def __init__(
        self,
        timers: Timers,
        processor: str,
        fire: Callable[[Due, int], Awaitable[None]],
        clock: Callable[[], int] = read_clock,
    ) -> None:
        self._timers, self._processor, self._fire, self._clock = timers, processor, fire, clock
        self._next: dict[int, int] = {}  # by part: when its next timer is due, in µs; unknown parts are looked at
        self._pauses: dict[int, int] = {}  # by part: µs after which timers that may not be fired are looked at again
        self._looked: dict[int, float] = {}  # by part, when it was looked at last, by the loop's clock
        self._failed: dict[tuple[str, int], float] = {}  # by stream and number: when it is tried again
        self._changed = asyncio.Event()
        self.fired = 0  # timers, by this object

    async def put(self, timer: Due) -> None:
        """Store a timer, and fire it when it is due."""
        await self._timers.put(self._processor, timer)
        part = self._timers.part_of(timer.stream)
        if part in self._next:
            self._next[part] = min(self._next[part], timer.due)
        self._changed.set()

    async def remove(self, timer: Due) -> None:
        """Remove a timer that was cancelled."""
        await self._timers.remove(self._processor, timer)

    def forget(self) -> None:
        """Look at the stored timers the next time, as other processes may have stored some."""
        self._next.clear()
        self._pauses.clear()

    async def run(self, may_fire: Callable[[str], bool], held: Callable[[], object]) -> None:
        """Fire the timers of the streams for which `may_fire` is true, until this is cancelled.

        `held` returns the slots that are held now, which says when other workers may have stored timers.
        """
        known = object()
        while True:
            if known != (known := held()):
                self.forget()
            self._changed.clear()
            try:
                if await self.fire_due(may_fire):
                    continue
            except TRANSIENT as error:
                log.warning("%s: timers wait for the store: %s", self._processor, type(error).__name__)
                await asyncio.sleep(OUTAGE_SECONDS)
                continue
            await self._sleep()

    async def fire_due(self, may_fire: Callable[[str], bool]) -> int:
        """Fire the timers that are due now. Return their number."""
        return sum([await self._fire_part(part, may_fire) for part in range(self._timers.parts) if self._is_due(part)])

    def _is_due(self, part: int) -> bool:
        clock = asyncio.get_running_loop().time()
        if part not in self._next or clock - self._looked[part] >= LOOK_SECONDS:
            return True
        return self._next[part] <= self._clock()

    async def _fire_part(self, part: int, may_fire: Callable[[str], bool]) -> int:
        loop, fired = asyncio.get_running_loop().time, 0
        self._looked[part], now = loop(), self._clock()
        self._next[part] = 2**63  # until it is known; one that is stored while this waits is not forgotten

        async def one(timer: Due) -> None:
            nonlocal fired
            try:
                await self._fire(timer, now)  # the time by which it is due: the clock may be set back since
                self.fired += 1  # also if a cancellation cuts the rest off: then there is an event to handle
                await self._timers.remove(self._processor, timer)
            except TRANSIENT:
                raise
            except Exception as error:  # noqa: BLE001  # a handler of its state may raise anything
                self._failed[_key(timer)] = loop() + _AGAIN_SECONDS
                facts = (self._processor, timer.name, timer.stream, type(error).__name__)
                log.error("%s: timer %s of %s cannot be fired: %s; it is tried again", *facts)
            else:
                fired += 1
                self._failed.pop(_key(timer), None)

        try:
            found = await self._timers.first(self._processor, part, 1)
            is_due, is_mine, last = bool(found) and found[0].due <= now, False, None
            while is_due and not fired:  # the last ones that were read are of other workers, or have failed
                found = await self._timers.first(self._processor, part, _AT_ONCE, last)
                mine = [each for each in found if each.due <= now and self._may_fire(each, may_fire)]
                await load_all(one, mine, _CONCURRENTLY)
                is_mine = is_mine or bool(mine)
                if len(found) < _AT_ONCE or found[-1].due > now:
                    break
                last = found[-1]
        except BaseException:
            self._next.pop(part, None)
            raise
        if is_mine or not is_due:
            self._pauses.pop(part, None)
        later = [each.due for each in found if each.due > now]
        if fired:
            later.append(0)  # more may be due
        elif is_due:
            pause = self._pauses.get(part, _AGAIN)
            self._pauses[part] = min(2 * pause, _LATEST)
            later.append(self._clock() + pause)
        if part in self._next:  # not forgotten since
            self._next[part] = min([self._next[part], *later])
        return fired

    def _may_fire(self, timer: Due, may_fire: Callable[[str], bool]) -> bool:
        return may_fire(timer.stream) and self._failed.get(_key(timer), 0.0) <= asyncio.get_running_loop().time()

    async def _sleep(self) -> None:
        """Wait until the next timer is due, or a new one is stored, for TICK_SECONDS at most."""
        left = (min(self._next.values(), default=2**63) - self._clock()) / 1e6
        try:
            await asyncio.wait_for(self._changed.wait(), min(max(left, 0.001), TICK_SECONDS))
        except TimeoutError:
            return


def _key(timer: Due) -> tuple[str, int]:
    return timer.stream, timer.number
