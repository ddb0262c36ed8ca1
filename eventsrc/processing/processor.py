"""A processor passes the commits of a feed to a projection, each once and in stream order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Generic, Literal, TypeVar

from ..concurrency import load_all
from ..errors import StreamParked
from ..store import Receipt, Store
from ..stores.feed import Feed
from .assignment import Assignment
from .checkpoints.checkpoints import Checkpoints, Parked
from .checkpoints.memory import MemoryCheckpoints
from .pipeline import Pipeline
from .projections.projection import Guarantee, Projection
from .registrar import Registrar
from .releasing import Releasing
from .waiting import Waiting
from .worker import Worker

P = TypeVar("P", bound=Projection)

_MAX_RETRYING = 32  # streams at a time, in `retry_all`


class Processor(Generic[P]):
    """Pass each commit of a store to a projection, once and in stream order, starting with the first commit.

    - `checkpoints` stores the positions. A MemoryProjection takes none.
    - `feed` is the transport; by default, the store's own feed.
    - `start="now"` begins with commits stored after the first run started. The start is stored; older commits are never
      handled, except that an unordered feed may deliver some of the last 15 minutes.
    - `attempts` is how often a failing handler is called in all. The first pause is 0.1 seconds, each further one four
      times as long, up to 30 seconds. Other streams continue in the meantime. Then the stream is parked: neither this
      commit nor later ones of the stream are handled until you retry or skip.
    - `on_error="stop"` stops the processor instead of parking, and `run` raises the handler's error.
    - `handler_timeout` is the number of seconds that one call of a handler may take; then it has failed.

    Raises:
        TypeError: no projection or feed is given, or checkpoints are missing, not needed or of a wrong kind.
        ValueError: `start`, `attempts`, `on_error` or `handler_timeout` has a value that is not allowed.
        DeclarationError: the projection is declared wrongly.
    """

    def __init__(
        self,
        projection: P,
        store: Store,
        checkpoints: Checkpoints | None = None,
        *,
        feed: Feed | None = None,
        start: Literal["beginning", "now"] = "beginning",
        attempts: int = 5,
        on_error: Literal["park", "stop"] = "park",
        handler_timeout: float = 30.0,
    ) -> None:
        given: object = projection
        if not isinstance(given, Projection):
            raise TypeError(f"{given!r} is not a projection; give an object of a subclass, as Processor(Wealth(), ...)")
        if start not in ("beginning", "now"):
            raise ValueError(f"start is {start!r}; give 'beginning' or 'now'")
        if on_error not in ("park", "stop"):
            raise ValueError(f"on_error is {on_error!r}; give 'park' or 'stop'")
        if attempts < 1:
            raise ValueError(f"attempts is {attempts!r}; give a number of at least 1")
        if not handler_timeout > 0:
            raise ValueError(f"handler_timeout is {handler_timeout!r}; give a number of seconds above 0")
        if feed is None and not isinstance(store, Feed):
            raise TypeError(f"{type(store).__name__} has no feed; give one as feed=")
        if checkpoints is None and projection.guarantee is not Guarantee.MEMORY:
            raise TypeError(
                f"{type(projection).__qualname__} needs checkpoints to store its positions; give checkpoints="
            )
        if checkpoints is not None and projection.guarantee is Guarantee.MEMORY:
            raise TypeError(
                f"{type(projection).__qualname__} is in memory, and so are its positions; leave out checkpoints"
            )
        self.projection, self.store = projection, store
        self.checkpoints = checkpoints if checkpoints is not None else MemoryCheckpoints()
        projection.bind(self.checkpoints, store, handler_timeout=handler_timeout)
        used: Feed = feed if feed is not None else store  # type: ignore[assignment]  # checked above
        registrar = Registrar(projection, self.checkpoints.registry, used, from_now=start == "now")
        self._waiting = Waiting(projection, registrar, self.checkpoints)
        self.pipeline = Pipeline(
            projection,
            store,
            Assignment(registrar, self.checkpoints, used),
            attempts=attempts,
            stops=on_error == "stop",
            wake=self._waiting.wake,
        )
        self._releasing = Releasing(self.pipeline)

    @property
    def name(self) -> str:
        """Tag and version, as `balances@2`: the key of everything in the checkpoints."""
        return self.projection.name

    @property
    def caught_up(self) -> asyncio.Event:
        """Set while all commits that the feed knows of are handled; after a run, if it ended so."""
        return self.pipeline.progress.caught_up

    async def run(self, *, until_caught_up: bool = False) -> None:
        """Run only this processor, as `Runner(self).run(...)` does."""
        await Worker([self.pipeline]).run(until_caught_up=until_caught_up)

    async def positions(self, streams: Sequence[str]) -> Mapping[str, int]:
        """Return the stored position, the version handled last, of each of these streams that has one."""
        return {stream: each.version for stream, each in (await self.projection.positions(streams)).items()}

    async def wait_for(self, receipt: Receipt, timeout: float = 10.0) -> None:
        """Wait until the commit of a save is handled, here or in another process: to read your own writes.

        Raises:
            StreamParked: the stream is parked at this commit or before it.
            NotActive: another version has replaced this one.
            TimeoutError: the commit was not handled within `timeout` seconds.
        """
        handled = (await self.positions([receipt.stream])).get(receipt.stream, 0)
        if handled >= receipt.version:
            return
        version = await self.pipeline.last_wanted(receipt.stream, receipt.version, handled)
        await self._waiting.wait_for(receipt.stream, version, timeout)

    # Parked streams.

    async def parked(self) -> Sequence[Parked]:
        """Return the parked streams. Those that are being retried are not among them."""
        return [each for each in await self.checkpoints.parked(self.name) if each.state == "parked"]

    async def retry(self, stream: str) -> None:
        """Handle a parked stream from its position to its end, and release it. Any process may call this.

        If a worker runs elsewhere, it continues with what was stored since, and this waits for it.

        Raises:
            StreamParked: a handler failed again; the stream stays parked.
            ValueError: the stream is not parked.
            RuntimeError: this object, or another process, is already retrying the stream, or this one is being stopped.
            TimeoutError: the worker did not continue in time; it, or its successor, will.
        """
        await self._releasing.release(stream)

    async def retry_all(self) -> Sequence[Parked]:
        """Retry all parked streams concurrently, as after an outage. Return those that are still parked."""

        async def one(stream: str) -> None:
            with suppress(
                StreamParked, ValueError, RuntimeError, TimeoutError
            ):  # it failed again, or somebody else releases it
                await self.retry(stream)

        await load_all(one, [parked.stream for parked in await self.parked()], _MAX_RETRYING)
        return await self.parked()

    async def skip(self, stream: str, reason: str, *, version: int | None = None) -> None:
        """Skip the commit at which a stream is parked, and handle the rest of the stream.

        - The skipped commit is stored with the reason: `checkpoints.skipped(name)` returns it.
        - With `version`, only that commit is skipped. If it was skipped before, as by a request that is repeated,
          nothing is done.

        Raises:
            StreamParked: a handler failed at a later commit.
            ValueError: the reason is empty, the stream is not parked, or the projection allows no skipping.
            RuntimeError: this object is already retrying the stream.
            TimeoutError: as for `retry`.
        """
        if not reason.strip():
            raise ValueError("the reason is empty; say why the commit is skipped, for later readers of the read model")
        if not self.projection.skips:
            raise ValueError(f"{self.name} cannot skip commits; fix what parked {stream}, and retry")
        if version is not None and version not in await self._parked_versions(stream):
            if any(
                (each.stream, each.version) == (stream, version) for each in await self.checkpoints.skipped(self.name)
            ):
                return  # this request was carried out before
            raise ValueError(f"{self.name} has not parked {stream} at version {version}; `parked` returns where it is")
        await self._releasing.release(stream, reason)

    async def _parked_versions(self, stream: str) -> set[int]:
        found = await self.checkpoints.parked(self.name, [stream])
        return {each.version for each in found if each.state == "parked"}

    # The processor as a whole.

    async def pause(self) -> None:
        """Let every process that runs this processor stop handling within seconds, until `resume`. It is stored."""
        await self.pipeline.assignment.registrar.set_paused(True)

    async def resume(self) -> None:
        """Let the processor continue after `pause`."""
        await self.pipeline.assignment.registrar.set_paused(False)

    async def reset(self, stream: str) -> None:
        """Forget what was handled of one stream, so that it is handled again from its beginning.

        Raises:
            TypeError: the projection cannot forget one stream.
            ValueError: the stream is parked; retry or skip it first.
        """
        await self.pipeline.reset(stream)

    async def forget(self) -> None:
        """Drop the read model and everything stored for this version; the next run builds it from the beginning.

        A process that still runs the processor is fenced. See `Projection.discard` for what happens to the read model.

        Raises:
            RuntimeError: this object is running.
            TypeError: the read model is in memory, or the library cannot know all of its rows.
        """
        self._check_stopped()
        await self.projection.discard()
        self.pipeline.assignment.registrar.forget()
        await self.pipeline.checkpointer.drop()

    async def resume_from(self, checkpoint: str = "") -> None:
        """Let the next run read the feed from `checkpoint`.

        - Use "", the beginning, if the old checkpoint has expired, or use the checkpoint of an export.
        - Positions are kept: commits that were handled before are not handled again, and with `start="now"` those
          before the start are not handled.
        - A process that runs the processor now is fenced.

        Raises:
            ValueError: `checkpoint` is not a checkpoint of the feed.
            RuntimeError: this object is running.
            Fenced: another process claimed a slot at the same time.
        """
        self._check_stopped()
        assignment = self.pipeline.assignment
        assignment.feed.earliest([checkpoint])
        await assignment.take_all()
        for number in list(assignment.held):
            await assignment.give_up(number, checkpoint)
        assignment.clear()

    def _check_stopped(self) -> None:
        if self.pipeline.running:
            raise RuntimeError(f"{self.name} is running; stop it first, or call this on another object for it")

    # What this process sees.

    @property
    def state(self) -> str:
        """One word: see `Status.state`."""
        return self.pipeline.state

    @property
    def lag(self) -> float:
        """How many seconds this process lags: see `Status.lag_seconds`."""
        return self.pipeline.progress.lag
