"""Waiting until a commit is handled, here or in another process."""

from __future__ import annotations

import asyncio

from ..errors import NotActive, StreamParked
from .checkpoints.checkpoints import Checkpoints
from .projections.projection import Projection
from .registrar import Registrar

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0  # seconds between looks at what other processes have handled


class Waiting:
    """The callers of `Processor.wait_for`."""

    def __init__(self, projection: Projection, registrar: Registrar, checkpoints: Checkpoints) -> None:
        self._projection, self._registrar, self._checkpoints = projection, registrar, checkpoints
        self._events: dict[str, set[asyncio.Event]] = {}  # by stream

    def wake(self, stream: str) -> None:
        """Wake the callers that wait for this stream."""
        for event in self._events.get(stream, ()):
            event.set()

    async def wait_for(self, stream: str, version: int, timeout: float) -> None:
        """Wait until a version of a stream is handled.

        Raises: as `Processor.wait_for`.
        """
        progress = asyncio.Event()
        self._events.setdefault(stream, set()).add(progress)
        pause = _FIRST_PAUSE
        try:
            async with asyncio.timeout(timeout):
                while not await self._is_handled(stream, version):
                    try:
                        async with asyncio.timeout(pause):  # another process may handle it, so look again
                            await progress.wait()
                    except TimeoutError:
                        pause = min(pause * 2, _LONGEST_PAUSE)
                    progress.clear()
        except TimeoutError:
            advice = "it is paused, call `resume`" if await self._registrar.is_paused() else "check that it runs"
            raise TimeoutError(
                f"{self._registrar.name} has not handled {stream}@{version} in {timeout} s; {advice}"
            ) from None
        finally:
            self._events[stream].discard(progress)
            if not self._events[stream]:
                del self._events[stream]

    async def _is_handled(self, stream: str, version: int) -> bool:
        registrar = self._registrar
        position = (await self._projection.positions([stream])).get(stream)
        if (position is not None and position.version >= version) or not version:
            return True
        for parked in await self._checkpoints.parked(registrar.name, [stream]):
            if parked.version <= version and parked.state == "parked":
                raise StreamParked(registrar.name, stream, parked.version)
        active = await registrar.active()
        if active is not None and active > registrar.version:
            raise NotActive(registrar.tag, registrar.version, active)
        return False
