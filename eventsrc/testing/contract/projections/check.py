"""The parts of a check of projections: a promise, and a function that finds out whether it is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

from ....processing.checkpoints.checkpoints import Checkpoints
from ....processing.projections.projection import Projection
from ..check import run_check
from .desk import Desk

P = TypeVar("P", bound=Projection)


@dataclass(frozen=True, slots=True)
class Bench(Generic[P]):
    """A projection of the kind to check.

    - `make` returns a new object of it: its class, or a function. The checks set `version` of the object.
    - `read` returns the ids of the events of one stream that the read model of this object and its version holds: in
      the order in which they were handled, and twice if one was handled twice.
    - `checkpoints` are open. A MemoryProjection needs none.
    """

    make: Callable[[], P]
    read: Callable[[P, str], Awaitable[Sequence[str]]]
    checkpoints: Checkpoints | None = None


MakeBench = Callable[[], AbstractAsyncContextManager[Bench[Any]]]
"""Makes a bench that begins with nothing, as an async context manager."""


class Capability(Enum):
    """The capabilities that a kind may lack if this is declared. The rest of the contract holds for every kind."""

    ATOMIC = "changes read model and position together, or neither of them"
    UNDOES = "leaves nothing of a commit whose handler fails"
    SHARES = "shows the same read model and positions to every object"
    FENCES = "refuses a worker whose slot was taken over"
    DROPS = "drops the whole read model"
    RESETS = "drops what one stream has written"


@dataclass(frozen=True, slots=True)
class Check:
    """One promise of the contract. `needs` are the capabilities without which it cannot be kept."""

    name: str
    promise: str
    run: Callable[[Desk], Awaitable[None]]
    needs: tuple[Capability, ...] = ()

    async def __call__(self, make_bench: MakeBench, *, without: Collection[Capability] = ()) -> None:
        """Check that the projection of this bench keeps the promise.

        If it is declared to be `without` a capability that the check needs, the promise must be broken: a declaration
        that is not true any more is an error too.

        Raises:
            AssertionError: the promise is broken, or the declaration is not true. The text has the promise.
        """
        lacking = " and ".join(each.value for each in self.needs if each in without)
        await run_check(self.promise, self._run(make_bench), lacking=lacking)

    async def _run(self, make_bench: MakeBench) -> None:
        async with make_bench() as bench, Desk(bench.make, bench.read, bench.checkpoints) as desk:
            await self.run(desk)

    def __str__(self) -> str:
        return self.name


def make_checks(*runs: Callable[[Desk], Awaitable[None]], needs: Collection[Capability] = ()) -> tuple[Check, ...]:
    """Make a check of each function: its name is the name of the check, and its docstring is the promise."""
    return tuple(Check(run.__name__, " ".join((run.__doc__ or "").split()), run, tuple(needs)) for run in runs)
