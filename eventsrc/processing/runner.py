"""A runner runs processors: it reads one feed for all of them and writes checkpoints of what is handled."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from .leases import Leases
from .processor import Processor
from .worker import GRACE, Worker


class Runner:
    """Run processors of one store in one task, until it is stopped or one of them fails.

    - The processors share one reader of the feed. One that lags far, such as a new one, reads by itself until it
      has caught up, so it does not hold up the others.
    - A store that cannot be reached is waited for.
    - Checkpoints are written at most every `save_every` seconds, and only if they have changed.
    - Without `leases` this process handles all streams, and the process that did so before is fenced.
    - A stopped runner ends within `grace` seconds: handlers that still run then are cancelled, and their commits are
      handled again by the next run.
    - A runner runs once.

    Raises:
        ValueError: there are no processors, or they read different feeds, or two have the same tag and version.
    """

    def __init__(
        self, *processors: Processor[Any], leases: Leases | None = None, save_every: float = 1.0, grace: float = GRACE
    ) -> None:
        if not processors:
            raise ValueError("a runner needs processors; give at least one")
        pipelines = [processor.pipeline for processor in processors]
        if len({id(pipeline.assignment.feed) for pipeline in pipelines}) > 1:
            raise ValueError("processors of one runner share a feed; create a second runner for another feed")
        if len({processor.name for processor in processors}) < len(processors):
            raise ValueError("two processors have the same tag and version; give each its own tag")
        self._worker = Worker(pipelines, leases=leases, save_every=save_every, grace=grace)

    def stop(self) -> None:
        """Let `run` end within the grace: commits in flight are finished, checkpoints are written, and leases end."""
        self._worker.stop()

    async def run(self, *, until_caught_up: bool = False, on_sigterm: bool = False) -> None:
        """Handle all commits, then new ones as they are stored, until `stop` is called.

        - `until_caught_up` ends when everything up to the end of the feed is handled, or parked. With leases, all slots
          must first be owned by workers that are alive: this one or others.
        - `on_sigterm` calls `stop` on SIGTERM.

        Raises:
            StreamsParked: with `until_caught_up`, everything is handled except these streams.
            Fenced: without leases, another process has taken over.
            NotActive: readers use another version of a processor.
            StoreChanged: the checkpoints belong to another store, or the store was restored.
            StoreError: a store failed with an error that does not pass, or stayed unreachable after `stop`.
            Exception: an error of a handler, where `on_error="stop"`.
        """
        loop = asyncio.get_running_loop()
        if on_sigterm:
            loop.add_signal_handler(signal.SIGTERM, self.stop)
        try:
            await self._worker.run(until_caught_up=until_caught_up)
        finally:
            if on_sigterm:
                loop.remove_signal_handler(signal.SIGTERM)
