"""Read models in the attributes of a Python object."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Collection, Mapping, Sequence, Set

from ...aggregates.event import Event
from ...store import Commit, EventId, EventIndex, Store
from ...trace_context import TraceContext, enter, leave
from ..checkpoints.checkpoints import Checkpoints
from ..slice import Context, Fence, Position, PositionMoved, Slice
from .calling import refuse_awaitable, to_failure
from .handlers import Cause, make_cause
from .ordering import Walk, in_order
from .projection import Failure, Guarantee, Projection


class MemoryProjection(Projection):
    """A read model in the attributes of a Python object. It starts empty in each process.

    - Handlers are plain methods. They run in the event loop, one at a time, so they must not block: nothing can end a
      handler there, and no time limit applies.
    - On stores that count commits, handlers are called in the order in which commits were stored, across streams. With
      `order = "stream"` the commits of a batch come one stream after the other.
    - If the second event of a commit fails, the first one keeps its effect, and the next attempt resumes with the
      second.
    """

    guarantee = Guarantee.MEMORY
    in_batches = True

    def bind(self, checkpoints: Checkpoints, store: Store, *, handler_timeout: float = 30.0) -> None:
        super().bind(checkpoints, store, handler_timeout=handler_timeout)
        self._positions: dict[str, Position] = {}
        self._partly: dict[str, EventId] = {}  # the event that failed, of the commit after the position

    def forget_stream(self, stream: str) -> None:
        """Remove from the attributes what events of `stream` have written. Write it to make `reset` possible."""
        name = f"{type(self).__qualname__}.forget_stream"
        raise TypeError(f"{name} is not written, so the events of one stream cannot be undone; write it")

    async def discard(self) -> None:
        """Raise TypeError: to start again, create a new object and a new processor."""
        raise TypeError(f"{type(self).__qualname__} is in memory; create a new one, and a processor for it")

    async def reset(self, stream: str, fence: Fence) -> None:
        self.forget_stream(stream)
        self._positions.pop(stream, None)
        self._partly.pop(stream, None)

    async def positions(self, streams: Collection[str]) -> dict[str, Position]:
        return {stream: self._positions[stream] for stream in streams if stream in self._positions}

    async def advance(self, run: Slice) -> None:
        self._check_position(run)
        self._positions[run.stream] = run.position
        self._partly.pop(run.stream, None)

    async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
        failures: dict[str, Failure] = {}
        by_stream, muted = {run.stream: run for run in runs}, {run.stream for run in runs if run.muted}
        attempts = {run.commits[0].id: run.attempt for run in runs if run.attempt > 1}
        for run in runs:
            try:
                self._check_position(run)
            except PositionMoved as error:
                failures[run.stream] = Failure(run, error)
        left = in_order([run for run in runs if run.stream not in failures], self.order)
        while left:
            walk, rest, token = Walk(left), list[Commit](), enter(TraceContext())
            try:
                self._handle(walk, muted, attempts)
            except (Exception, CancelledError) as error:  # noqa: BLE001  # whatever a user's handler raises
                stream = left[walk.done].stream
                failures[stream] = Failure(by_stream[stream], to_failure(error))
                rest = [each for each in left[walk.done + 1 :] if each.stream != stream]
            finally:
                leave(token)
                self._note(left[: walk.done])
            left = rest
        return list(failures.values())

    def _note(self, done: Sequence[Commit]) -> None:
        for stream, commit in {commit.stream: commit for commit in done}.items():
            self._positions[stream] = Position(commit.version, commit.id, commit.time)
            if self._partly and (failed := self._partly.get(stream)) is not None and failed.version <= commit.version:
                del self._partly[stream]

    def _check_position(self, run: Slice) -> None:
        found = self._positions.get(run.stream)
        if (found is None) != run.is_first or (found is not None and found.version != run.after):
            raise PositionMoved(run.stream)

    def _handle(self, walk: Walk, muted: Set[str], attempts: Mapping[bytes, int]) -> None:
        handlers, find, name = self._handlers, self._handlers.find, self.name
        if handlers.take_sequences:
            # Not across commits: the events that a handler takes together would be in different attempts.
            for commit in walk:
                for call in handlers.calls((commit,)):
                    self._call(call.cause(name, attempts.get(commit.id, 1)), call.given, muted)
            return
        for commit, events in zip(walk, handlers.read_each(walk.commits), strict=False):
            attempt = attempts.get(commit.id, 1) if attempts else 1
            for index, event in events:
                if (found := find(type(event))) is not None:  # none takes what an upcaster returned
                    self._call(make_cause(Cause, (found, commit, index, (), name, attempt)), event, muted)

    def _call(self, cause: Cause, given: Event | list[Event], muted: Set[str]) -> None:
        handler, commit, index, *_ = cause
        if self._partly and self._is_handled(commit, index):
            return
        enter(cause)
        try:
            if handler.with_context:
                result = handler.call(self, given, Context(commit, index, commit.stream in muted))
            else:
                result = handler.call(self, given)
            if result is not None:
                refuse_awaitable(result, handler.name)
        except (Exception, CancelledError):
            self._partly[commit.stream] = commit.event_id(index)
            raise

    def _is_handled(self, commit: Commit, index: EventIndex) -> bool:
        """Whether an earlier attempt has handled this event of a commit that failed."""
        failed = self._partly.get(commit.stream)
        return failed is not None and commit.version == failed.version and commit.event_id(index) < failed
