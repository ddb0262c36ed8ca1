"""Projections: handlers of events, and a read model that is stored together with the positions."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Sequence
from enum import Enum
from typing import Any, ClassVar, NamedTuple

from ...errors import DeclarationError
from ...store import Store
from ..checkpoints.checkpoints import Checkpoints
from ..slice import HandlerFailed, Slice
from .handlers import Handlers, handlers_of


class Guarantee(Enum):
    """How a projection keeps its effects and its positions consistent."""

    MEMORY = "exactly once: positions and read model are in memory, and are lost together"
    TRANSACTION = "exactly once: positions and read model change in one transaction"
    ROW = "exactly once: each stream's position is in the row that its events change"
    KEY = "at least once: the position is written after the effect; the event's id is the idempotency key"


class Failure(NamedTuple):
    """A slice that was not handled to its end. The stream's stored position says how far it was.

    `error` is HandlerFailed, PositionMoved, Fenced, or an error of the checkpoints.
    """

    run: Slice
    error: Exception


class Projection(ABC):
    """A read model. Subclass one of its kinds, give it a tag and a version, and write `handle_*` methods:

    ```python
    class Balances(MemoryProjection, tag="balances"):
        version = 2

        def handle_deposited(self, event: Deposited) -> None: ...
        def handle_movements(self, events: Sequence[Withdrawn | Moved], context: Context) -> None: ...
    ```

    - The annotation says which events a handler receives: one type, or several joined with `|`.
    - A handler annotated with a sequence receives consecutive events of one stream together.
    - A second parameter is optional: it receives the Context.
    - Events without a handler are skipped, also events of unknown types.
    - If a handler raises, the position of the stream stays where it is.
    """

    tag: ClassVar[str] = ""
    version: ClassVar[int] = 1  # raise it when handlers or read model change in a way that needs a rebuild
    upcasters: ClassVar[Sequence[Any]] = ()
    guarantee: ClassVar[Guarantee]
    awaits: ClassVar[bool] = False  # whether handlers may be async
    skips: ClassVar[bool] = True  # whether a commit may be skipped
    concurrency: ClassVar[int] = 32  # streams handled at a time, by kinds that handle several

    _handlers: Handlers
    _checkpoints: Any  # Checkpoints, of the kind that this projection needs
    _store: Store  # the store whose commits it handles; processors set this, and the next
    _semaphore: asyncio.Semaphore  # of `concurrency` permits

    def __init_subclass__(cls, *, tag: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if tag:
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", tag):
                raise DeclarationError(
                    cls.__qualname__, f"the tag {tag!r} is not allowed; use 1 to 100 of A-Z, a-z, 0-9, '_', '-' and '.'"
                )
            cls.tag = tag

    @property
    def name(self) -> str:
        """Tag and version, as `balances@2`: the key of its positions."""
        return f"{self.tag}@{self.version}"

    def bind(self, checkpoints: Checkpoints) -> None:
        """Check the declaration and use these checkpoints. Processors call this.

        Raises:
            DeclarationError: the projection is declared wrongly.
            TypeError: this kind of projection needs other checkpoints.
        """
        kind = type(self)
        if not kind.tag:
            raise DeclarationError(kind.__qualname__, f'has no tag; write `class {kind.__qualname__}(..., tag="...")`')
        if type(self.version) is not int or self.version < 1:
            raise DeclarationError(f"{kind.__qualname__}.version", f"is {self.version!r}; give a number of at least 1")
        self._handlers = handlers_of(kind, self.upcasters)
        if not self.awaits and (handler := self._handlers.awaiting) is not None:
            raise DeclarationError(
                handler.call.__qualname__, "is async; handlers of this kind of projection are plain methods"
            )
        self._checkpoints = checkpoints

    async def prepare(self) -> None:  # noqa: B027  # most need nothing
        """Create what the read model needs, if it does not exist. Processors call this before the first event."""

    async def discard(self) -> None:
        """Drop the read model together with its positions.

        If the read model is in DynamoDB, this drops only the positions in the checkpoints. Delete its items yourself:
        a new build continues with the items that are left.
        """
        await self._checkpoints.forget(self.name)

    async def positions(self, streams: Collection[str]) -> dict[str, int]:
        """Return the position of each of these streams that has one."""
        found: dict[str, int] = await self._checkpoints.positions(self.name, streams)
        return found

    async def positions_of(self, name: str, streams: Collection[str]) -> dict[str, int]:
        """Return the same for another version of this projection, by its name."""
        found: dict[str, int] = await self._checkpoints.positions(name, streams)
        return found

    async def advance(self, run: Slice) -> None:
        """Move the stream's position to the end of the slice, without calling handlers.

        Raises:
            PositionMoved: the position is not where the slice begins.
            Fenced: another worker has taken over the slot.
        """
        await self._checkpoints.advance(self.name, run)

    @abstractmethod
    async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
        """Handle slices, at most one per stream, each commit together with its position. Return those that failed."""


async def side_by_side(
    runs: Sequence[Slice], handle: Callable[[Slice], Awaitable[None]], semaphore: asyncio.Semaphore
) -> Sequence[Failure]:
    """Call `handle` with each slice, as many at a time as the semaphore permits. Return the failures."""
    failures: list[Failure] = []

    async def one(run: Slice) -> None:
        async with semaphore:
            try:
                await handle(run)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                failures.append(
                    Failure(run, HandlerFailed(RuntimeError("a task that the handler awaited was cancelled")))
                )
            except Exception as error:  # noqa: BLE001  # it is returned with its slice
                failures.append(Failure(run, error))

    async with asyncio.TaskGroup() as group:
        for run in runs:
            group.create_task(one(run))
    return failures
