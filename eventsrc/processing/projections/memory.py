"""Read models in the attributes of a Python object."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ...store import Commit
from ..checkpoints.checkpoints import Checkpoints
from ..slice import Context, HandlerFailed, PositionMoved, Slice
from .projection import Failure, Guarantee, Projection


class MemoryProjection(Projection):
    """A read model in the attributes of a Python object. It starts empty in each process.

    Handlers are plain methods. If the second event of a commit fails, the first one keeps its effect, and the next
    attempt resumes with the second.
    """

    guarantee = Guarantee.MEMORY

    def bind(self, checkpoints: Checkpoints) -> None:
        super().bind(checkpoints)
        self._positions: dict[str, int] = {}
        self._done: dict[str, int] = {}  # events already handled of the commit after the position

    async def discard(self) -> None:
        """Raise TypeError: to start again, create a new object and a new processor."""
        raise TypeError(f"{type(self).__qualname__} is in memory; create a new one, and a processor for it")

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
