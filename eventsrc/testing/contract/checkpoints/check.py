"""The parts of a check of checkpoints: a promise, and a function that finds out whether it is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from enum import Enum

from ....processing.checkpoints.checkpoints import Checkpoints
from ..check import run_check

MakeCheckpoints = Callable[[], Checkpoints]
"""Makes checkpoints that are not open yet. All that it makes must share their data."""


class Capability(Enum):
    """The capabilities that checkpoints may lack if this is declared. The rest of the contract holds for all."""

    FENCES_ALL_STREAMS = "refuses a stale worker also for streams that its successor has not handled yet"


@dataclass(frozen=True, slots=True)
class Check:
    """One promise of the contract. `needs` is the capability without which it cannot be kept."""

    name: str
    promise: str
    run: Callable[[MakeCheckpoints], Awaitable[None]]
    needs: Capability | None = None

    async def __call__(self, make_checkpoints: MakeCheckpoints, *, without: Collection[Capability] = ()) -> None:
        """Check that the checkpoints of this factory keep the promise.

        If they are declared to be `without` the capability that the check needs, the promise must be broken: a
        declaration that is not true any more is an error too.

        Raises:
            AssertionError: the promise is broken, or the declaration is not true. The text has the promise.
        """
        lacking = self.needs.value if self.needs is not None and self.needs in without else ""
        await run_check(self.promise, self.run(make_checkpoints), lacking=lacking)

    def __str__(self) -> str:
        return self.name


def make_checks(
    *runs: Callable[[MakeCheckpoints], Awaitable[None]], needs: Capability | None = None
) -> tuple[Check, ...]:
    """Make a check of each function: its name is the name of the check, and its docstring is the promise."""
    return tuple(Check(run.__name__, " ".join((run.__doc__ or "").split()), run, needs) for run in runs)
