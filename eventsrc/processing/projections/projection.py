"""Projections: handlers of events, and a read model that is stored together with the positions."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Sequence
from enum import Enum
from math import isfinite
from typing import Any, ClassVar, NamedTuple
from weakref import WeakValueDictionary

from ...errors import DeclarationError
from ...store import Commit, EventIndex, Store
from ...stream_id import category_of, check_category
from ..checkpoints.checkpoints import Checkpoints
from ..slice import Context, Fence, HandlerFailed, Position, Slice
from .calling import call_handler
from .handlers import Call, Handlers, handlers_of, has_handlers
from .ordering import Order


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
    categories: ClassVar[Sequence[str]] = ()  # only streams of these categories; none: of all
    guarantee: ClassVar[Guarantee]
    order: ClassVar[Order] = "feed"  # of the commits of several streams, for kinds that take batches
    awaits: ClassVar[bool] = False  # whether handlers may be async
    outages: ClassVar[tuple[type[Exception], ...]] = ()  # of effects: something cannot be reached; called until it can
    skips: ClassVar[bool] = True  # whether a commit may be skipped
    has_handlers: ClassVar[bool] = True  # False: it takes commits as they are
    in_batches: ClassVar[bool] = False  # whether `apply` takes many slices at once
    one_by_one: ClassVar[bool] = False  # whether `apply` takes one commit at a time
    concurrency: ClassVar[int] = 32  # calls of `apply` at a time, for kinds that do not take batches

    _handlers: Handlers
    _checkpoints: Any  # Checkpoints, of the kind that this projection needs
    _store: Store
    _handler_timeout: float
    _tags: frozenset[str] = frozenset()  # of the events that its handlers take

    def __init_subclass__(cls, *, tag: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if tag:
            check_tag(tag, cls.__qualname__)
            cls.tag = tag

    @property
    def name(self) -> str:
        """Tag and version, as `balances@2`: the key of its positions."""
        return f"{self.tag}@{self.version}"

    def bind(self, checkpoints: Checkpoints, store: Store, *, handler_timeout: float = 30.0) -> None:
        """Check the declaration, and use these checkpoints and this store. Processors call this.

        `handler_timeout` is the number of seconds that one call of a handler may take.

        Raises:
            DeclarationError: the projection is declared wrongly.
            TypeError: this kind of projection needs other checkpoints.
            ValueError: `handler_timeout` is not a positive number.
        """
        if not (isfinite(handler_timeout) and handler_timeout > 0):
            raise ValueError(f"handler_timeout is {handler_timeout}; give a number of seconds above 0")
        check_declaration(self)
        check_subclass(type(self))
        if self.has_handlers:
            self._handlers = handlers_of(type(self), self.upcasters)
            if not self.awaits and (handler := self._handlers.awaiting) is not None:
                raise DeclarationError(handler.name, "is async; handlers of this kind of projection are plain methods")
            self._tags = frozenset(self._handlers.tags)
        check_single(self, checkpoints)
        self._checkpoints, self._store, self._handler_timeout = checkpoints, store, handler_timeout

    @property
    def handles(self) -> tuple[str, ...]:
        """The tags of the events that its handlers take, sorted, with those that upcasters replace."""
        return tuple(sorted(self._tags))

    def wants(self, commit: Commit) -> bool:
        """Whether the commit is of one of the `categories`, and has an event that a handler takes."""
        if self.categories and category_of(commit.stream) not in self.categories:
            return False
        return not self.has_handlers or not self._tags.isdisjoint(commit.tags)

    async def target_identity(self) -> str:
        """Return the identity of the store that holds the positions, if that is not where the checkpoints are."""
        return ""

    async def prepare(self) -> None:  # noqa: B027  # most need nothing
        """Create what the read model needs, if it does not exist. Processors call this before the first event."""

    async def attend(  # noqa: B027  # most need nothing
        self, may_act: Callable[[str], bool], held: Callable[[], object]
    ) -> None:
        """Work next to the handlers, as long as a worker runs this projection; then this is cancelled.

        `may_act` says of a stream whether this process handles it now. `held` returns a value that changes whenever
        other streams may be handled here, as after a take-over. An error ends the worker, as one of the store.
        """

    async def discard(self) -> None:
        """Drop the read model, with everything else that is stored for this version.

        Fences are raised before anything is dropped, so that a worker that still runs writes nothing afterwards. If it
        fails, call it again.

        Raises:
            TypeError: this kind of projection cannot do it.
        """
        await self._checkpoints.forget(self.name)

    async def reset(self, stream: str, fence: Fence) -> None:
        """Drop what one stream has written into the read model, with its position: all its events are handled again.

        Raises:
            TypeError: this kind of projection cannot do it.
            Fenced: another worker has taken over the slot.
        """
        raise TypeError(f"{type(self).__qualname__} cannot drop what one stream has written")

    async def positions(self, streams: Collection[str]) -> dict[str, Position]:
        """Return the position of each of these streams that has one."""
        found: dict[str, Position] = await self._checkpoints.positions(self.name, streams)
        return found

    async def positions_of(self, name: str, streams: Collection[str]) -> dict[str, Position]:
        """Return the same for another version of this projection, by its name."""
        found: dict[str, Position] = await self._checkpoints.positions(name, streams)
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
        """Handle slices, each commit together with its position. Return those that failed.

        - With `in_batches`: any number of slices, at most one per stream. Otherwise: one slice. With `one_by_one`: one
          slice of one commit.
        - A slice that fails may have been handled in part. Its stored position says how far.
        """

    async def call_handlers(self, run: Slice, context: Callable[[Commit, EventIndex, bool], Context] = Context) -> None:
        """Call the handlers of a slice in order, each with `context(commit, index, muted)`.

        For kinds of projections of your own. A handler has the processor's `handler_timeout` to end.

        Raises:
            HandlerFailed: a handler failed, or an event cannot be read. Undo what the handlers have written.
        """
        for call in self._read_calls(run.commits):
            given = context(call.commit, call.event_index, run.muted)
            await call_handler(self, call, given, self._handler_timeout, attempt=run.attempt_at(call.first_commit))

    def _read_calls(self, commits: Sequence[Commit]) -> list[Call]:
        """Return the calls to make for commits of one stream. Raises HandlerFailed if an event cannot be read."""
        try:
            return list(self._handlers.calls(commits))
        except Exception as error:
            raise HandlerFailed(error) from error


async def catch(run: Slice, handling: Awaitable[None]) -> Sequence[Failure]:
    """Await the handling of a slice. Return its failure, if it fails."""
    try:
        await handling
    except Exception as error:  # noqa: BLE001  # it is returned with its slice
        return [Failure(run, error)]
    return []


_bound: WeakValueDictionary[tuple[int, str], Projection] = WeakValueDictionary()
"""Projections by their checkpoints and name. As they hold their checkpoints, no other ones have the same id."""


def check_single(projection: Projection, checkpoints: Checkpoints) -> None:
    """Raise DeclarationError if an object of another class has the same name and checkpoints.

    Objects that are no longer used do not count, nor do classes that were defined again, as in a notebook.
    """
    kind, key = type(projection), (id(checkpoints), projection.name)
    other = type(_bound.setdefault(key, projection))
    if (other.__module__, other.__qualname__) != (kind.__module__, kind.__qualname__):
        raise DeclarationError(
            kind.__qualname__,
            f"is {projection.name}, and so is {other.__qualname__}: they would share positions; give one another tag",
        )


def check_subclass(kind: type[Projection]) -> None:
    """Raise DeclarationError if a class has taken on the name of a base that is itself a projection of its own."""
    for base in kind.__mro__[1:] if "tag" not in vars(kind) else ():
        if not issubclass(base, Projection) or (base.tag, base.version) != (kind.tag, kind.version):
            continue
        if has_handlers(base) or not base.has_handlers:
            name = kind.__qualname__
            raise DeclarationError(
                name,
                f"has the tag and version of its base {base.__qualname__}, so they would share positions; write "
                f'class {name}({base.__qualname__}, tag="...")',
            )


def check_tag(tag: object, name: str) -> None:
    """Raise DeclarationError, which names the class `name`, unless this may be the tag of a projection."""
    if not isinstance(tag, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", tag):
        raise DeclarationError(name, f"the tag {tag!r} is not allowed; use 1 to 100 of A-Z, a-z, 0-9, '_', '-' and '.'")


def check_declaration(projection: Projection) -> None:
    """Check tag, version, categories and order of a projection. Raises DeclarationError."""
    name = type(projection).__qualname__
    if not projection.tag:
        raise DeclarationError(name, f'has no tag; write `class {name}(..., tag="...")`')
    check_tag(projection.tag, name)
    if type(projection.version) is not int or projection.version < 1:
        raise DeclarationError(f"{name}.version", f"is {projection.version!r}; give a number of at least 1")
    if projection.order not in ("feed", "stream"):
        raise DeclarationError(f"{name}.order", f'is {projection.order!r}; write "feed" or "stream"')
    if isinstance(projection.categories, str) or not isinstance(projection.categories, Collection):
        raise DeclarationError(f"{name}.categories", 'is not a tuple of categories; write ("account",)')
    for category in projection.categories:
        if not isinstance(category, str):
            raise DeclarationError(f"{name}.categories", f"holds {category!r}; give categories, which are texts")
        check_category(category, f"{name}.categories")
