"""What a check is: a promise, and how to find it broken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from ...store import Store

E = TypeVar("E", bound=Exception)

MakeStore = Callable[[], Store]
"""Makes a store, not opened yet."""

PATIENCE = 60.0  # seconds; a store that hangs must not hang its tests


class Capability(Enum):
    """What a store may lack if that is declared. All the rest of the contract holds for every store."""

    KNOWS_THE_END = "refuses an append beyond the stream's end"
    SHARES_DATA = "shows the same data through every object that the factory makes"
    FEEDS = "tells all its commits in order"


@dataclass(frozen=True, slots=True)
class Check:
    """One promise of the contract. `needs` is the ability without which a store cannot keep it."""

    name: str
    promise: str
    run: Callable[[MakeStore], Awaitable[None]]
    needs: Capability | None = None

    async def __call__(self, make_store: MakeStore, *, without: Collection[Capability] = ()) -> None:
        """Raise AssertionError, with the promise in it, unless the stores of this factory keep the promise.

        If the ability it needs is among those the store `lacks`, the promise must be broken: a declaration that is
        no longer true is an error too.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                await self.run(make_store)
        except AssertionError as error:
            if self.needs not in without:
                raise AssertionError(f"{self.promise}\nbut {error}") from error
        except Exception as error:
            raise AssertionError(f"{self.promise}\nbut it raised {type(error).__name__}: {error}") from error
        else:
            if self.needs in without:
                raise AssertionError(f"the store was declared to lack {self.needs}, and has it; drop the declaration")

    def __str__(self) -> str:
        return self.name


def checks(*runs: Callable[[MakeStore], Awaitable[None]], needs: Capability | None = None) -> tuple[Check, ...]:
    """Checks named like their functions; the docstrings are the promises."""
    return tuple(Check(run.__name__, " ".join((run.__doc__ or "").split()), run, needs) for run in runs)


def expect(kept: bool, otherwise: str) -> None:
    """Not an assert statement: `python -O` must not turn a contract into one that nobody breaks."""
    if not kept:
        raise AssertionError(otherwise)


def expect_equal(found: object, expected: object, what: str) -> None:
    expect(found == expected, f"{what}: found {shown(found)}, expected {shown(expected)}")


async def refused(error: type[E], call: Awaitable[object], what: str) -> E:
    """The error with which the call was refused."""
    try:
        result = await call
    except error as refusal:
        return refusal
    raise AssertionError(f"{what} gave {shown(result)}; expected {error.__name__}")


def shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 400 else f"{text[:400]}... ({len(text):,} characters)"
