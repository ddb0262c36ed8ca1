"""Projections: what a user's handlers make of events, and where it is kept together with the positions."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Sequence
from enum import Enum
from inspect import isawaitable
from typing import Any, ClassVar, NamedTuple

from ...errors import DeclarationError
from ...store import Commit, Store
from ..checkpoints.checkpoints import Checkpoints
from ..slice import Context, HandlerFailed, PositionMoved, Slice
from .handlers import Handlers, handlers_of


class Guarantee(Enum):
    """How a projection keeps its effects and its positions together."""

    MEMORY = "exactly once: positions are in memory with the read model, and are lost with it"
    TRANSACTION = "exactly once: positions and read model change in one transaction"
    ROW = "exactly once: each stream's position is in the row that its events change"
    KEY = "at least once: the position is written after the effect, which has the event's id as its idempotency key"


class Failure(NamedTuple):
    """A run that was not handled to its end; the stream's position tells how far. `error` is HandlerFailed,
    PositionMoved, Fenced, or an error of the checkpoints.
    """

    run: Slice
    error: Exception


class Projection(ABC):
    """A read model. Subclass a kind of it, give it a tag and a version, and write `handle_*` methods:

    ```python
    class Balances(MemoryProjection, tag="balances"):
        version = 2

        def handle_deposited(self, event: Deposited) -> None: ...
        def handle_movements(self, events: Sequence[Withdrawn | Moved], context: Context) -> None: ...
    ```

    Handlers are found by the annotation of their event, or of a sequence of events for those of one stream that come
    one after the other; the second parameter is there for whoever needs it. Events that no handler takes are passed
    over, unknown ones too. A handler that raises leaves the stream where it is.
    """

    tag: ClassVar[str] = ""
    version: ClassVar[int] = 1  # raise it when handlers or read model change in a way that needs a rebuild
    upcasters: ClassVar[Sequence[Any]] = ()
    guarantee: ClassVar[Guarantee]
    awaits: ClassVar[bool] = False  # whether handlers may be async
    skips: ClassVar[bool] = True  # whether a commit may be passed over
    concurrency: ClassVar[int] = 32  # streams that are handled side by side, where a kind does that

    _handlers: Handlers
    _checkpoints: Any  # Checkpoints, of the kind that it needs
    _store: Store  # that it is told of; processors set it, as well as
    _semaphore: asyncio.Semaphore  # which is for `concurrency`

    def __init_subclass__(cls, *, tag: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if tag:
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", tag):
                raise DeclarationError(
                    cls.__qualname__, f"the tag {tag!r} is 1 to 100 of A-Z, a-z, 0-9, '_', '-' and '.'"
                )
            cls.tag = tag

    @property
    def name(self) -> str:
        """What its positions are kept under: tag and version, as `balances@2`."""
        return f"{self.tag}@{self.version}"

    def bind(self, checkpoints: Checkpoints) -> None:
        """Get ready to work with these. Processors call it. Raises DeclarationError, and TypeError for a wrong kind."""
        kind = type(self)
        if not kind.tag:
            raise DeclarationError(kind.__qualname__, f'has no tag; write `class {kind.__qualname__}(..., tag="...")`')
        if type(self.version) is not int or self.version < 1:
            raise DeclarationError(f"{kind.__qualname__}.version", f"is {self.version!r}; it is a number from 1 on")
        self._handlers = handlers_of(kind, self.upcasters)
        if not self.awaits and (handler := self._handlers.awaiting) is not None:
            raise DeclarationError(handler.call.__qualname__, "is async, which handlers of this kind cannot be")
        self._checkpoints = checkpoints

    async def prepare(self) -> None:  # noqa: B027  # most need nothing
        """Make what the read model needs, if it is not there. Processors call it before the first event."""

    async def discard(self) -> None:
        """Drop the read model together with its positions. Where it is in DynamoDB, that is up to you: these are the
        positions alone, and rows that stay are counted on when it is built again.
        """
        await self._checkpoints.forget(self.name)

    async def positions(self, streams: Collection[str]) -> dict[str, int]:
        """Those of these streams that have one."""
        found: dict[str, int] = await self._checkpoints.positions(self.name, streams)
        return found

    async def positions_of(self, name: str, streams: Collection[str]) -> dict[str, int]:
        """The same of another version of this projection, by its name."""
        found: dict[str, int] = await self._checkpoints.positions(name, streams)
        return found

    async def advance(self, run: Slice) -> None:
        """Set the stream's position behind the run, without any effect. Raises PositionMoved, Fenced."""
        await self._checkpoints.advance(self.name, run)

    @abstractmethod
    async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
        """Handle runs, one a stream, each commit together with its position; returns those that stopped on the way."""


class MemoryProjection(Projection):
    """A read model in Python objects: its own attributes. It starts from nothing with the process.

    Handlers are plain methods. Of a commit whose second event fails the first has had its effect; tried again, it goes
    on with the second.
    """

    guarantee = Guarantee.MEMORY

    def bind(self, checkpoints: Checkpoints) -> None:
        super().bind(checkpoints)
        self._positions: dict[str, int] = {}
        self._done: dict[str, int] = {}  # events of the commit behind the position that have had their effect

    async def discard(self) -> None:
        """Not known here: make a new object instead."""
        raise TypeError(f"{type(self).__qualname__} is in memory; make a new one, and a processor for it")

    async def positions(self, streams: Collection[str]) -> dict[str, int]:
        return {stream: self._positions[stream] for stream in streams if stream in self._positions}

    async def advance(self, run: Slice) -> None:
        if self._positions.get(run.stream, run.after) != run.after:
            raise PositionMoved(run.stream)
        self._positions[run.stream] = run.last_version
        self._done.pop(run.stream, None)

    async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
        failures: list[Failure] = []
        for run in runs:
            try:
                for commit in run.commits:
                    self._handle(commit, run.muted)
                    self._positions[run.stream] = commit.version
            except Exception as error:  # noqa: BLE001  # whatever a user's handler raises
                failures.append(Failure(run, HandlerFailed(error)))
        return failures

    def _handle(self, commit: Commit, muted: bool) -> None:
        done = self._done.pop(commit.stream, 0) if self._done else 0
        try:
            for handler, given, _, index in self._handlers.calls((commit,)):
                if index >= done:
                    if handler.with_context:
                        handler.call(self, given, Context(commit, index, muted))
                    else:
                        handler.call(self, given)
                    done = index + 1
        except Exception:
            self._done[commit.stream] = done
            raise


class Effects(Projection):
    """Effects outside: mails, payments, calls of other services. Handlers may be async.

    What a handler does cannot be one with the position, which is written after it. So it is done at least once:
    pass `context.id` on as the idempotency key, which makes it once where the other side knows such keys. Streams are
    handled side by side, `concurrency` at a time.
    """

    guarantee = Guarantee.KEY
    awaits = True

    async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
        return await side_by_side(runs, self._handle, self._semaphore)

    async def _handle(self, run: Slice) -> None:
        for commit in run.commits:
            if not run.muted:
                await self._call(commit)
            await self._checkpoints.advance(self.name, run._replace(after=commit.version - 1, commits=(commit,)))

    async def _call(self, commit: Commit) -> None:
        try:
            for handler, given, _, index in self._handlers.calls((commit,)):
                context = [Context(commit, index, muted=False)] if handler.with_context else []
                result = handler.call(self, given, *context)
                if isawaitable(result):
                    await result
        except Exception as error:
            raise HandlerFailed(error) from error


async def side_by_side(
    runs: Sequence[Slice], handle: Callable[[Slice], Awaitable[None]], semaphore: asyncio.Semaphore
) -> Sequence[Failure]:
    """Call `handle` with each slice, as many at a time as the semaphore lets in. Return the failures."""
    failures: list[Failure] = []

    async def one(run: Slice) -> None:
        async with semaphore:
            try:
                await handle(run)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                failures.append(Failure(run, HandlerFailed(RuntimeError("what a handler waited for was cancelled"))))
            except Exception as error:  # noqa: BLE001  # it is told with its run
                failures.append(Failure(run, error))

    async with asyncio.TaskGroup() as group:
        for run in runs:
            group.create_task(one(run))
    return failures
