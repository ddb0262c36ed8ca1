"""The rebuilds that were started in the studio, and how far they are."""

from __future__ import annotations

import asyncio
from typing import Any

from ..concurrency import cancel_all
from ..log import log
from ..processing import Processor, rebuild


class Rebuilding:
    """A rebuild: how far it is, and why it has failed."""

    def __init__(self, processor: Processor[Any]) -> None:
        self.handled = self.total = 0
        self.error: Exception | None = None
        self._processor = processor
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await rebuild(self._processor, progress=self._note)
        except Exception as error:  # noqa: BLE001  # the page shows it
            self.error = error
            log.warning("studio: the rebuild of %s has failed: %s", self._processor.name, type(error).__name__)

    def _note(self, handled: int, total: int) -> None:
        self.handled, self.total = handled, total


class Rebuilds:
    """The latest rebuild of each processor."""

    def __init__(self) -> None:
        self._found: dict[str, Rebuilding] = {}

    def find(self, processor: Processor[Any]) -> Rebuilding | None:
        return self._found.get(processor.name)

    def start(self, processor: Processor[Any]) -> None:
        """Start a rebuild. Raises RuntimeError if one is under way, or the processor runs in this process."""
        known = self.find(processor)
        if known is not None and not known.task.done():
            raise RuntimeError(f"{processor.name} is being rebuilt already")
        if processor.pipeline.running:
            raise RuntimeError(f"{processor.name} runs in this process; rebuild it in another one")
        self._found[processor.name] = Rebuilding(processor)

    async def aclose(self) -> None:
        """Cancel what is under way, and wait until the old versions continue."""
        await cancel_all([each.task for each in self._found.values()])
