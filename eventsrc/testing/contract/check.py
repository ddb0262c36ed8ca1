"""The parts of a check: a promise, and a function that finds out whether it is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from ...store import Store

E = TypeVar("E", bound=Exception)

MakeStore = Callable[[], Store]
"""Makes a store that is not open yet."""

PATIENCE = 60.0  # seconds; a store that hangs must not hang its tests


class Capability(Enum):
    """The capabilities that a store may lack if this is declared. The rest of the contract holds for every store."""

    KNOWS_THE_END = "refuses an append beyond the stream's end"
    SHARES_DATA = "shows the same data through every object that the factory makes"
    FEEDS = "has a feed of all its commits in order"
    FINDS_CAUSES = "finds the commits of a trace, and the effects of an event"
    TRANSACTIONS = "stores commits to several streams together, with guards on others"


@dataclass(frozen=True, slots=True)
class Check:
    """One promise of the contract. `needs` is the capability without which a store cannot keep it."""

    name: str
    promise: str
    run: Callable[[MakeStore], Awaitable[None]]
    needs: Capability | None = None

    async def __call__(self, make_store: MakeStore, *, without: Collection[Capability] = ()) -> None:
        """Check that the stores of this factory keep the promise.

        If the store is declared to be `without` the capability that the check needs, the promise must be broken: a
        declaration that is not true any more is an error too.

        Raises:
            AssertionError: the promise is broken, or the declaration is not true. The text has the promise.
        """
        lacking = self.needs.value if self.needs is not None and self.needs in without else ""
        await run_check(self.promise, self.run(make_store), lacking=lacking)

    def __str__(self) -> str:
        return self.name


async def run_check(promise: str, check: Awaitable[None], *, lacking: str = "") -> None:
    """Run a check. If the capability that it needs is declared to be `lacking`, the promise must be broken.

    Raises:
        AssertionError: the promise is broken, or the declaration is not true. The text has the promise.
    """
    limit = asyncio.timeout(PATIENCE)
    try:
        async with limit:
            await check
    except AssertionError as error:
        if not lacking:
            raise AssertionError(f"{promise}\nbut {error}") from error
    except Exception as error:
        what = f"raised {type(error).__name__}: {error}"
        if limit.expired():
            what = f"did not end within {PATIENCE:g} seconds"
        raise AssertionError(f"{promise}\nbut it {what}") from error
    else:
        if lacking:
            raise AssertionError(f"it was declared to be without: {lacking}, but has it; remove the declaration")


def make_checks(*runs: Callable[[MakeStore], Awaitable[None]], needs: Capability | None = None) -> tuple[Check, ...]:
    """Make a check of each function: its name is the name of the check, and its docstring is the promise."""
    return tuple(Check(run.__name__, " ".join((run.__doc__ or "").split()), run, needs) for run in runs)


def expect(kept: bool, otherwise: str) -> None:
    """Raise AssertionError if `kept` is false. An assert statement would be removed by `python -O`."""
    if not kept:
        raise AssertionError(otherwise)


def expect_equal(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise AssertionError(f"{what}: found {shorten(found)}, expected {shorten(expected)}")


async def expect_error(error: type[E], call: Awaitable[object], what: str) -> E:
    """Return the error of this class that a call raises."""
    try:
        result = await call
    except error as raised:
        return raised
    raise AssertionError(f"{what} gave {shorten(result)}; expected {error.__name__}")


def shorten(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 400 else f"{text[:400]}... ({len(text):,} characters)"
